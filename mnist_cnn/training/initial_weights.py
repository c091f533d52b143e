"""A training's initial weights (`train.init`).

They are read from a model and kept beside checkpoints. The files are read without TensorFlow, so that a
mistake is reported before anything starts. The job names the weights by their SHA-256, which is checked again
where they are loaded.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import registered, run_folder
from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError, storage_error
from mnist_cnn.files import atomic, safe_read
from mnist_cnn.training.model import arrays_sha256, layers_with_weights, weight_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mnist_cnn.config import ModelConfig
    from mnist_cnn.data.datasets import DataSetInfo

    Weights = tuple[NDArray[Any], ...]

FILE = "initial.npz"
"""The file's name in the folder of the checkpoints."""
SUFFIXES = (".keras", ".h5")
HINT = "name a run, or a .keras, .weights.h5 or .h5 file that Keras has saved"
SHAPES_HINT = "set model.* as it was when these weights were trained"
MOST_EXPANSION = 10
"""Largest ratio of weights to file size.

Weights hardly compress. A file that claims more would only fill the memory.
"""


def locate(init: str, runs_dir: str) -> Path:
    """Return the file that `train.init` names.

    It is the named file, or the model of a run or a folder, or a registered model's newest version. Raises
    ConfigurationError if it does not exist, DataError if it isn't the model that the run has saved.
    """
    path = Path(init)
    if path.suffix in SUFFIXES:
        if path.is_file():
            return path.resolve()
        raise ConfigurationError(f"train.init={init}: file not found", HINT)
    if not (path / run_folder.RECEIPT).exists():
        for folder in (path, registered.version_in(path) or path):
            if (folder / run_folder.MODEL).is_file():
                return (folder / run_folder.MODEL).resolve()
    try:
        folder = run_folder.find(init, runs_dir)
    except ConfigurationError as error:
        raise ConfigurationError(f"train.init: {error.message}", error.hint) from error
    result = run_folder.read_result(folder)
    if result is None:
        hint = f"wait until {folder.name} is completed, or name another run"
        raise ConfigurationError(f"train.init={init}: the run has no result yet", hint)
    try:
        run_folder.verify(folder, result)
    except MnistCnnError as error:
        raise DataError(f"train.init={init}: {error.message}", error.hint) from error
    return (folder / run_folder.MODEL).resolve()


def read(path: Path, config: ModelConfig) -> Weights:
    """Return a file's weights, ordered as Keras' `model.weights`.

    Raises DataError if the file isn't a model of Keras, ConfigurationError if it does not say the order.
    """
    names = None if config.source is not None else layers_with_weights(config)
    try:
        with safe_read.open_file(path) as file:
            arrays = _read_model(file.read(), path.suffix, names)
    except ConfigurationError:
        raise
    except MemoryError as error:
        raise DataError(f"train.init={path}: too large for the memory", "name another file") from error
    except Exception as error:  # h5py, zipfile and json raise many kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"train.init={path} holds no weights of Keras: {reason}", HINT) from error
    return arrays


def check_network(arrays: Weights, config: ModelConfig, info: DataSetInfo, classes: int) -> None:
    """Check that weights are finite and fit the network.

    The trainer compares the shapes if a file makes the network. Raises ConfigurationError, or DataError if a
    weight is not finite.
    """
    import numpy as np

    if config.source is None:
        check_shapes(arrays, weight_shapes(config, info.height, info.width, classes))
    if not all(np.isfinite(array).all() for array in arrays):
        raise DataError("train.init: some of its weights are not finite", "name another file")


def check_shapes(arrays: Weights, expected: Sequence[tuple[int, ...]]) -> None:
    """Check the shapes of weights. Raises ConfigurationError."""
    if len(arrays) != len(expected):
        message = f"train.init has {len(arrays)} arrays of weights, the network has {len(expected)}"
        raise ConfigurationError(message, SHAPES_HINT)
    for number, (array, shape) in enumerate(zip(arrays, expected, strict=True), 1):
        if array.shape != tuple(shape):
            found, wanted = ("x".join(map(str, sizes)) for sizes in (array.shape, shape))
            message = f"train.init: array {number} of its weights is {found}, the network's is {wanted}"
            raise ConfigurationError(message, SHAPES_HINT)


def write(folder: Path, arrays: Weights) -> None:
    """Write weights beside checkpoints. Raises BackendError."""
    import numpy as np

    try:
        atomic.make_folder(folder, exist_ok=True)
        with atomic.replacing(folder / FILE) as temporary, temporary.open("wb") as file:
            named: dict[str, Any] = {f"{number:04d}": array for number, array in enumerate(arrays)}
            np.savez(file, **named)
    except OSError as error:
        raise storage_error(error, str(folder)) from error


def copy(source: Path, target: Path) -> None:
    """Copy the weights, if any. Raises BackendError.

    Both folders are of checkpoints.
    """
    if (source / FILE).is_file():
        try:
            with atomic.replacing(target / FILE) as temporary:
                shutil.copyfile(source / FILE, temporary)
        except OSError as error:
            raise storage_error(error, str(target)) from error


def load(folder: Path, sha256: str) -> Weights:
    """Return the weights in a folder of checkpoints.

    Raises DataError if they are missing, damaged or have another hash.
    """
    import numpy as np

    try:
        with safe_read.open_file(folder / FILE) as file:
            size = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            _check_expansion(size, file.seek(0, io.SEEK_END))
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = tuple(stored[name] for name in sorted(stored.files))
        found = arrays_sha256(arrays)
    except Exception as error:  # numpy and zipfile raise many kinds of errors
        message = f"the initial weights cannot be read: {folder / FILE} is missing or damaged"
        raise DataError(message, "start a new run") from error
    check_sha256(found, sha256, str(folder / FILE))
    return arrays


def check_sha256(found: str, expected: str, name: str) -> None:
    """Check the hash of weights. Raises DataError."""
    if found != expected:
        message = f"{name} holds other weights: SHA-256 {found[:12]}..., the job's are {expected[:12]}..."
        raise DataError(message, "start a new run")


def _check_expansion(size: int, stored: int) -> None:
    if size > MOST_EXPANSION * stored:
        raise ValueError(f"it claims {size:,} bytes of weights in a file of {stored:,}")


def _read_model(content: bytes, suffix: str, names: Sequence[str] | None) -> Weights:
    """Return the weights in a .keras or .h5 file.

    `names` are the network's layers, if known.
    """
    import h5py

    if suffix == ".keras":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(archive.getinfo(name).file_size for name in ("config.json", "model.weights.h5"))
            _check_expansion(size, len(content))
            names = _names_of(json.loads(archive.read("config.json")))
            content = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(content)) as file:
        datasets = _datasets(file, names)
        _check_expansion(sum(dataset.nbytes for dataset in datasets), len(content))
        return tuple(_as_float32(dataset[()]) for dataset in datasets)


def _datasets(file: Any, names: Sequence[str] | None) -> list[Any]:
    """Return an HDF5 file's arrays, in layer order."""
    model = file.get("model_weights", file)
    if "layer_names" in model.attrs:  # the format of Keras 2
        groups = [model[_text(name)] for name in model.attrs["layer_names"]]
        return [group[_text(name)] for group in groups for name in group.attrs["weight_names"]]
    if names is None:
        message = "train.init: this file does not say in which order the layers are"
        raise ConfigurationError(message, "name the .keras file of the whole model")
    layers = file["layers"]
    unknown = [name for name, group in layers.items() if name not in names and len(group.get("vars", ()))]
    if unknown:
        message = f"train.init: the network has no layer {', '.join(unknown)}, but the file has"
        raise ConfigurationError(message, SHAPES_HINT)
    found: list[Any] = []
    for name in names:
        group = layers.get(name, {})
        nested = [key for key in group if key not in ("vars", "seed_generator")]
        if nested:
            message = f"train.init: the layer {name} holds other layers ({', '.join(nested)})"
            raise ConfigurationError(message, "weights can only be read from a plain list of layers")
        arrays = group.get("vars", {})
        found += [arrays[str(number)] for number in range(len(arrays))]
    return found


def _names_of(config: Any) -> list[str]:
    """Return a .keras file's groups of weights, in order.

    The rule is that of `_save_container_state` in keras/src/saving/saving_lib.py: the class's name in
    snake case, numbered from the second one on.
    """
    if "layers" not in config["config"]:
        message = f"train.init: the model is a {config['class_name']}, not a list of layers"
        raise ConfigurationError(message, "weights can be read from a Sequential or functional model")
    counts: dict[str, int] = {}
    names = []
    for layer in config["config"]["layers"]:
        name = re.sub(r"\W+", "", layer["class_name"])
        name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
        number = counts[name] = counts.get(name, -1) + 1
        names.append(f"{name}_{number}" if number else name)
    return names


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _as_float32(array: Any) -> NDArray[Any]:
    import numpy as np

    found: NDArray[Any] = np.asarray(array)
    return found.astype(np.float32) if found.dtype.kind == "f" else found
