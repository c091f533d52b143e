"""Data sets: four IDX files, loaded as arrays.

The files are checked against each other. They belong to a named set (see download.py) or are in a folder,
`data.dir`. `inspect` checks them before training starts; `load` returns the arrays. Imports numpy only to
make arrays, and never TensorFlow or Hydra.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.config import DataConfig, Format
from mnist_cnn.data import download as downloads
from mnist_cnn.data.idx import read_idx
from mnist_cnn.data.labels import number_of_classes
from mnist_cnn.errors import ConfigurationError, DataError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from mnist_cnn.data.idx import Array

    Arrays = tuple[Array, Array, Array, Array]

RANKS = (3, 1, 3, 1)  # of the four files, always in this order: training images and labels, then test

TUTORIAL_NAMES = ("train-images", "train-labels", "test-images", "test-labels")
STEMS = tuple(zip(downloads.NAMES, TUTORIAL_NAMES, strict=True))
"""Official name and tutorial's name of each file."""
ACCEPTED_NAMES = {f"{stem}{suffix}" for stems in STEMS for stem in stems for suffix in (".gz", "")}
CONVERTED = "converted"
"""The folder of the cache for converted data; see own_data/conversion.py."""

FOLDER_HINT = "get the four files again, or leave out data.dir to use the packaged MNIST"


@dataclass(frozen=True)
class DataSetInfo:
    """A whole data set, before any limit.

    `location` is 'packaged' or its folder.
    """

    digest: str
    train_images: int
    test_images: int
    height: int
    width: int
    classes: int
    location: str


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images, uint8, and labels, uint8 (N,), as read-only views.

    Images are (N, H, W, 1) or (N, 1, H, W). The validation arrays have length 0 if `data.validation` is 0.
    """

    x_train: Array
    y_train: Array
    x_validation: Array
    y_validation: Array
    x_test: Array
    y_test: Array

    @property
    def held_out(self) -> tuple[Array, Array]:
        """Images and labels on which each epoch is evaluated."""
        if len(self.x_validation):
            return self.x_validation, self.y_validation
        return self.x_test, self.y_test


def inspect(config: DataConfig, *, download: bool = True) -> DataSetInfo | None:
    """Check a data set before training; return its description.

    The packaged set is checked by the size and SHA-256 of its files, without unpacking them; other sets are
    read completely. Returns None only if the set would have to be downloaded and `download` is False; its
    limits are checked anyway.

    Raises:
        ConfigurationError: the set is unknown, a limit is too high, or no image is left to train on.
        DataError: a file is missing, damaged or does not match the others, a download failed, or the data's
            digest is not `config.digest`.
        BackendError: a download cannot be stored.
    """
    source = None if config.dir is not None else downloads.find_source(config.name)
    if source is not None and not source.url:
        info = _packaged_info(source, config.num_classes)
    elif source is not None and not download and not downloads.is_complete(source):
        _check_limits(config, source.train_images, source.test_images)
        return None
    else:
        found = _locate(config)
        arrays, classes = _read_four(found, config.num_classes)
        x_train, _, x_test, _ = arrays
        height, width = x_train.shape[1:]
        sizes = (len(x_train), len(x_test), height, width, classes)
        info = DataSetInfo(digest(*arrays), *sizes, found.location)
    _check_digest(config, info.digest, info.location)
    _check_limits(config, info.train_images, info.test_images)
    return info


def load(config: DataConfig) -> DataSet:
    """Check the files; return the configured arrays.

    Of the first `train_limit` training images, the last `validation` are kept for validation. A named set
    that is not in the cache is downloaded. Raises as `inspect` does.
    """
    import numpy as np

    found = _locate(config)
    (x_train, y_train, x_test, y_test), _ = _read_four(found, config.num_classes)
    if config.digest is not None:
        _check_digest(config, digest(x_train, y_train, x_test, y_test), found.location)
    _check_limits(config, len(x_train), len(x_test))
    used = len(x_train) if config.train_limit is None else config.train_limit
    kept = used - config.validation
    channel_axis = 1 if config.format is Format.channels_first else 3
    x_train, x_test = np.expand_dims(x_train, channel_axis), np.expand_dims(x_test, channel_axis)
    return DataSet(
        x_train=x_train[:kept],
        y_train=y_train[:kept],
        x_validation=x_train[kept:used],
        y_validation=y_train[kept:used],
        x_test=x_test[: config.test_limit],
        y_test=y_test[: config.test_limit],
    )


def files(config: DataConfig) -> tuple[Path, ...]:
    """Return the four local files, ordered as STEMS.

    Raises as `inspect` does.
    """
    return _locate(config).paths


def digest(x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> str:
    """Return the SHA-256, in hex, of four whole arrays.

    Images are (N, H, W). Hashes for each array, in this order, its dtype and shape as a line of text ("|u1
    60000 28 28"), then its bytes in C order.
    """
    import numpy as np

    sha256 = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        sha256.update(" ".join([array.dtype.str, *map(str, array.shape)]).encode() + b"\n")
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


@dataclass(frozen=True)
class _Located:
    """Four local files.

    `location` is for messages, `hint` for a damaged file.
    """

    paths: tuple[Path, ...]
    location: str
    hint: str


def _locate(config: DataConfig) -> _Located:
    """Find the four files; download missing ones."""
    if config.dir is not None:
        folder = Path(config.dir)
        if is_converted(folder):
            return _locate_converted(folder)
        return _Located(_find_in_folder(folder, FOLDER_HINT), config.dir, FOLDER_HINT)
    source = downloads.find_source(config.name)
    if not source.url:
        return _Located(downloads.packaged(source), "packaged", downloads.PACKAGED_HINT)
    folder = downloads.cache_folder(source.name)
    hint = f"delete {folder} and start again; its files are then downloaded again"
    return _Located(downloads.fetch(source, folder), str(folder), hint)


def is_converted(folder: Path) -> bool:
    """Tell by its name whether a folder has converted data, also if it is on another machine."""
    return folder.parent.name == CONVERTED and re.fullmatch(r"[0-9a-f]{64}", folder.name) is not None


def _locate_converted(folder: Path) -> _Located:
    """Find data that were converted, here or on the machine that made the job."""
    here = folder if folder.is_dir() else downloads.cache_folder(CONVERTED) / folder.name
    if not here.is_dir():
        again = command_line("plan", "data.dir=FOLDER")
        hint = f"convert the original data on this machine, with the run's other settings and seed: {again}"
        raise DataError(f"data.dir={folder}: the folder with the converted data does not exist", hint)
    hint = f"delete {here} and name the original data again with data.dir"
    return _Located(_find_in_folder(here, hint), str(here), hint)


def _find_in_folder(folder: Path, hint: str) -> tuple[Path, ...]:
    """Find the four files in a folder.

    Any accepted name is found.
    """
    try:
        if not folder.is_dir():
            problem = "it is not a folder" if folder.exists() else "the folder does not exist"
            raise DataError(f"data.dir={folder}: {problem}", hint)
        with os.scandir(folder):  # report a folder without permission as such, not as missing files
            pass
        return tuple(_find(folder, stems, hint) for stems in STEMS)
    except OSError as error:
        message = f"data.dir={folder}: cannot be read: {error.strerror or error}"
        raise DataError(message, hint) from error


def _find(folder: Path, stems: tuple[str, ...], hint: str) -> Path:
    """Find one of the four files.

    The official name comes before the tutorial's, each gzipped before raw.
    """
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".gz", "")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    message = f"{folder / names[0]} is missing; accepted names are {', '.join(names)}"
    raise DataError(message, hint)


def _packaged_info(source: downloads.Source, num_classes: int | None) -> DataSetInfo:
    """Describe a packaged set after checking it.

    Checks its files, and its labels against `num_classes`.
    """
    downloads.packaged(source)
    if num_classes is not None and num_classes < source.classes:
        raise DataError(
            f"{source.name}: it has labels 0 to {source.classes - 1}, "
            f"but data.num_classes={num_classes} allows 0 to {num_classes - 1}",
            f"set data.num_classes={source.classes}",
        )
    sizes = (source.train_images, source.test_images, source.height, source.width)
    return DataSetInfo(source.digest, *sizes, num_classes or source.classes, "packaged")


def _read_four(found: _Located, num_classes: int | None) -> tuple[Arrays, int]:
    """Read and check the four arrays; return them and their number of classes.

    Images are (N, H, W), labels (N,). Two threads read, because zlib releases the GIL; the training images
    are most of the work.
    """
    try:
        with ThreadPoolExecutor(max_workers=2) as threads:
            x_train, y_train, x_test, y_test = threads.map(read_idx, found.paths, RANKS)
        arrays = x_train, y_train, x_test, y_test
        return arrays, check(found.paths, arrays, num_classes, found.hint)
    except DataError as error:
        error.hint = error.hint or found.hint
        raise


def check(paths: tuple[Path, ...], arrays: Arrays, num_classes: int | None, hint: str) -> int:
    """Check four arrays against each other; return their number of classes.

    Errors call the arrays by their `paths`. Raises DataError, with `hint` if the arrays do not fit together.
    """
    train_images, train_labels, test_images, test_labels = paths
    x_train, y_train, x_test, y_test = arrays
    _check_pair(train_images, x_train, train_labels, y_train, hint)
    _check_pair(test_images, x_test, test_labels, y_test, hint)
    classes = number_of_classes((train_labels, test_labels), y_train, y_test, num_classes)
    train_size, test_size = (" x ".join(map(str, images.shape[1:])) for images in (x_train, x_test))
    if train_size != test_size:
        others = f"but those of {train_images} have {train_size}"
        raise DataError(f"{test_images}: its images have {test_size} pixels, {others}", hint)
    return classes


def _check_pair(images: Path, x: Array, labels: Path, y: Array, hint: str) -> None:
    if len(x) != len(y):
        raise DataError(f"{labels}: it has {len(y)} labels for the {len(x)} images of {images}", hint)


def _check_digest(config: DataConfig, found: str, location: str) -> None:
    if config.digest is not None and config.digest != found:
        message = f"the data's digest is {found} ({location}), but data.digest={config.digest} was expected"
        raise DataError(message, "get the expected data, or leave out data.digest to use these")


def _check_limits(config: DataConfig, train_images: int, test_images: int) -> None:
    for key, limit, available in (
        ("data.train_limit", config.train_limit, train_images),
        ("data.test_limit", config.test_limit, test_images),
    ):
        if limit is not None and limit > available:
            raise ConfigurationError(
                f"{key}={limit}: must be a whole number from 1 to {available}, or null",
                f"the data set has {available} of these images; null uses all",
            )
    used = train_images if config.train_limit is None else config.train_limit
    if config.validation >= used:
        raise ConfigurationError(
            f"data.validation={config.validation}: must be a whole number from 0 to {used - 1}",
            f"{used} training images are in use, and at least one must be left to train on",
        )
