"""Weights of a saved model are read without TensorFlow, checked, and named by their hash."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.records import write_receipt

from mnist_cnn import launch, run_creation, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import node
from mnist_cnn.config import DataConfig, Format, ModelConfig
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError, DataError
from mnist_cnn.job import Job
from mnist_cnn.training import initial_weights
from mnist_cnn.training.model import (
    arrays_sha256,
    build_model,
    layers_with_weights,
    weight_shapes,
    weights_sha256,
)

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

NETWORKS = {
    "tutorial": ModelConfig(filters=(2, 3), dense_units=4),
    "normalised": ModelConfig(filters=(2, 3, 4), batch_norm=True, dense_units=0, pool_after=(1, 2)),
    "stem": ModelConfig(filters=(2,), stem_kernel_size=5, stem_stride=2, dense_dropout=0, pool_size=3),
}
SMALL = ("model.filters=[2,3]", "model.dense_units=4")


def built(config: ModelConfig) -> Any:
    return build_model(config, (28, 28, 1), 10, Format.channels_last, "float32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, keras: ModuleType) -> Path:
    """A folder with a model of SMALL in each format."""
    folder = tmp_path_factory.mktemp("saved")
    keras.utils.set_random_seed(1)
    model = built(NETWORKS["tutorial"])
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    model.save_weights(folder / "model.weights.h5")
    (folder / "sha256").write_text(weights_sha256(model))
    return folder


def test_the_newest_version_of_a_registered_model_is_found(tmp_path: Path) -> None:
    for version in ("2", "10"):
        (tmp_path / "m" / version).mkdir(parents=True)
        for name in ("model.json", "model.keras"):
            (tmp_path / "m" / version / name).touch()
    newest = tmp_path / "m" / "10" / "model.keras"
    for named in (tmp_path / "m", tmp_path / "m" / "10"):
        assert initial_weights.locate(str(named), "runs") == newest


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_names_are_those_that_keras_gives_them(tmp_path: Path, name: str) -> None:
    config = NETWORKS[name]
    model = built(config)
    assert weight_shapes(config, 28, 28, 10) == [tuple(weight.shape) for weight in model.weights]
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for file in ("model.keras", "model.weights.h5"):
        arrays = initial_weights.read(tmp_path / file, config)
        assert arrays_sha256(arrays) == weights_sha256(model)
    assert len(layers_with_weights(config)) == sum(bool(layer.weights) for layer in model.layers)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_the_hash_of_the_weights_is_part_of_the_job(saved: Path, name: str) -> None:
    job = launch.make_job(*SMALL, f"train.init={saved / name}")
    assert job.train.init == str(saved / name)
    assert job.train.init_sha256 == (saved / "sha256").read_text()
    assert job.digest == launch.make_job(*SMALL, f"train.init={saved / 'model.keras'}").digest
    assert job.digest != launch.make_job(*SMALL).digest
    assert Job.from_json(job.to_json()) == job
    there = node.decode(node.encode(job))
    assert there.train.init is None
    assert there.digest == job.digest


@pytest.mark.usefixtures("keras")
def test_the_weights_of_a_networks_file_are_read_in_its_order(tmp_path: Path, keras: ModuleType) -> None:
    layers = keras.layers
    network = [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(3), layers.LayerNormalization()]
    model = keras.Sequential([*network, layers.Dense(10, activation="softmax")])
    model.save(tmp_path / "own.keras")
    model.save_weights(tmp_path / "own.weights.h5")
    config = ModelConfig(file="own.py", source="def build(): ...")
    assert arrays_sha256(initial_weights.read(tmp_path / "own.keras", config)) == weights_sha256(model)
    with pytest.raises(ConfigurationError, match="does not say in which order the layers are"):
        initial_weights.read(tmp_path / "own.weights.h5", config)
    with pytest.raises(ConfigurationError, match="the network has no layer dense_1, layer_normalization"):
        initial_weights.read(tmp_path / "own.weights.h5", ModelConfig(filters=(2,), dense_units=0))
    nested = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.Sequential([layers.Flatten(), layers.Dense(10)])]
    )
    nested.save(tmp_path / "nested.keras")
    with pytest.raises(ConfigurationError, match="the layer sequential holds other layers"):
        initial_weights.read(tmp_path / "nested.keras", config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.filters=[2,4]",), "array 3 of its weights is 3x3x2x3, the network's is 3x3x2x4"),
        (("model.filters=[2,3]", "model.dense_units=0"), "8 arrays of weights, the network has 6"),
    ],
)
def test_weights_of_another_network_are_refused(
    saved: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        launch.make_job("model.dense_units=4", *overrides, f"train.init={saved / 'model.keras'}")
    assert message in refused.value.message
    assert "set model.* as it was" in refused.value.hint


def test_other_weights_than_expected_are_refused(saved: Path) -> None:
    init = f"train.init={saved / 'model.keras'}"
    with pytest.raises(
        DataError, match=r"holds other weights: SHA-256 \w{12}\.\.\., the job's are abc\.\.\."
    ):
        launch.make_job(*SMALL, init, "train.init_sha256=abc")
    with pytest.raises(ConfigurationError, match=r"train\.init_sha256 needs train\.init"):
        launch.make_job(*SMALL, "train.init_sha256=abc")


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x89HDF\r\n\x1a\n" + bytes(100)], ids=["empty", "text", "hdf5"]
)
@pytest.mark.parametrize("name", ["damaged.keras", "damaged.h5"])
def test_a_damaged_file_is_an_error_of_the_data(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no weights of Keras") as refused:
        launch.make_job(f"train.init={tmp_path / name}")
    assert "\n" not in refused.value.message


def test_a_file_that_claims_to_be_huge_is_not_unpacked(tmp_path: Path, saved: Path) -> None:
    with zipfile.ZipFile(saved / "model.keras") as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", bytes(10_000_000))
    with pytest.raises(DataError, match="it claims 10,00"):
        initial_weights.read(tmp_path / "bomb.keras", ModelConfig())


def test_a_file_or_run_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"train\.init=nothing\.keras: file not found"):
        launch.plan("train.init=nothing.keras")
    with pytest.raises(ConfigurationError, match=r"train\.init: run nothing: not found"):
        launch.plan("train.init=nothing", f"runs_dir={tmp_path}")
    write_receipt(tmp_path / "unfinished", Status.running)
    with pytest.raises(ConfigurationError, match="the run has no result yet"):
        launch.plan("train.init=unfinished", f"runs_dir={tmp_path}")


def test_weights_that_are_not_finite_are_refused() -> None:
    config = ModelConfig(filters=(2,), dense_units=0)
    info = datasets.inspect(DataConfig())
    assert info is not None
    arrays = tuple(np.zeros(shape, np.float32) for shape in weight_shapes(config, 28, 28, 10))
    arrays[1][0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        initial_weights.check_network(arrays, config, info, 10)


def test_kept_weights_are_checked_when_they_are_loaded(tmp_path: Path) -> None:
    arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32))
    initial_weights.write(tmp_path / "a", arrays)
    (tmp_path / "b").mkdir()
    initial_weights.copy(tmp_path / "a", tmp_path / "b")
    sha256 = arrays_sha256(arrays)
    assert [array.tolist() for array in initial_weights.load(tmp_path / "b", sha256)] == [
        array.tolist() for array in arrays
    ]
    with pytest.raises(DataError, match="holds other weights"):
        initial_weights.load(tmp_path / "b", "0" * 64)
    file = tmp_path / "b" / initial_weights.FILE
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="is missing or damaged"):
        initial_weights.load(tmp_path / "b", sha256)
    with pytest.raises(DataError, match="is missing or damaged"):
        initial_weights.load(tmp_path / "nowhere", sha256)


def test_kept_weights_hold_no_python_objects(tmp_path: Path) -> None:
    stored = io.BytesIO()
    arrays: dict[str, Any] = {"0000": np.array([{}])}  # which numpy pickles
    np.savez(stored, **arrays)
    (tmp_path / initial_weights.FILE).write_bytes(stored.getvalue())
    with pytest.raises(DataError, match="is missing or damaged"):
        initial_weights.load(tmp_path, "0" * 64)


def test_a_command_that_was_killed_early_can_be_repeated(tmp_path: Path, saved: Path) -> None:
    job = launch.make_job(*SMALL, f"train.init={saved / 'model.keras'}")
    folder = tmp_path / "run"
    folder.mkdir()
    run_folder.write_job(folder, job)
    initial_weights.write(
        folder / run_folder.CHECKPOINTS, initial_weights.read(saved / "model.keras", job.model)
    )
    run_creation.check_free(folder, job)
