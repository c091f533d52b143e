"""Converts your own data to four IDX files, which everything else reads.

They are in the cache, in a folder that is named after the digest of their arrays. Equal arrays have one
folder, whatever they were read from.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import struct
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mnist_cnn.config import Pictures
from mnist_cnn.data import datasets
from mnist_cnn.data.download import NAMES, cache_folder
from mnist_cnn.data.idx import UBYTE
from mnist_cnn.errors import BackendError, ConfigurationError, DataError, storage_error
from mnist_cnn.files import atomic
from mnist_cnn.own_data.folders import ClassFolders
from mnist_cnn.own_data.npz import Npz

if TYPE_CHECKING:
    from mnist_cnn.config import DataConfig
    from mnist_cnn.data.datasets import Arrays
    from mnist_cnn.data.idx import Array

HINT = (
    "data.dir takes a folder per class with PNG or JPEG files (perhaps in train/ and test/), an .npz file "
    "with x_train, y_train, x_test and y_test, or a folder with four IDX files"
)
SIZE_HINT = "leave it out, or name such a folder with data.dir"


class Source(Hashable, Protocol):
    """Data that can be converted; equal ones have the same files, unchanged."""

    @property
    def parts(self) -> tuple[Path, ...]:
        """What messages call training images and labels, and test images and labels."""

    def read(self) -> Arrays:
        """Read images, uint8 (N, H, W), and labels, uint8 (N,). Raises DataError."""


def converted(config: DataConfig, seed: int) -> DataConfig:
    """Return settings whose `dir`, if any, has four IDX files.

    Folders of pictures also name the classes, and have `predict` take whole pictures. The `seed` decides
    which of them are tested on.

    Raises:
        ConfigurationError: `size` is set for other data than pictures.
        DataError: `dir` holds nothing that can be read.
        BackendError: the cache cannot be written.
    """
    path = None if config.dir is None else Path(config.dir)
    if path is not None and datasets.is_converted(path):  # of a run that is resumed
        return config
    source = None if path is None else _find(path, config, seed)
    if config.size is not None and not isinstance(source, ClassFolders):
        raise ConfigurationError(
            f"data.size={config.size}: only pictures in a folder per class are resized", SIZE_HINT
        )
    if source is None:
        return config
    cache = cache_folder(datasets.CONVERTED)
    folder = _converted(source, config.num_classes, cache)
    if not folder.is_dir():  # deleted since then
        _converted.cache_clear()
        folder = _converted(source, config.num_classes, cache)
    if isinstance(source, ClassFolders):
        names, pictures = config.class_names or source.class_names, config.pictures or Pictures.whole
        config = dataclasses.replace(config, class_names=names, pictures=pictures)
    return dataclasses.replace(config, dir=str(folder))


def _find(path: Path, config: DataConfig, seed: int) -> Source | None:
    """Return what has to be converted, or None for a folder of IDX files."""
    try:
        if path.is_file():
            if path.suffix.lower() == Npz.SUFFIX:
                return Npz.at(path)
            raise DataError(f"data.dir={path}: it is neither a folder nor an .npz file", HINT)
        if not path.is_dir():
            raise DataError(f"data.dir={path}: the folder does not exist", HINT)
        return _find_in_folder(path, config, seed)
    except OSError as error:
        raise DataError(f"data.dir={path}: cannot be read: {error.strerror or error}", HINT) from error


def _find_in_folder(folder: Path, config: DataConfig, seed: int) -> Source | None:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if datasets.ACCEPTED_NAMES & {*names}:
        return None
    archives = [name for name in names if name.lower().endswith(Npz.SUFFIX)]
    if len(archives) > 1:
        message = f"data.dir={folder}: it has {len(archives)} .npz files"
        raise DataError(message, f"name one of them: data.dir={folder / archives[0]}")
    if archives:
        return Npz.at(folder / archives[0])
    if any((folder / name).is_dir() for name in names):
        return ClassFolders.at(folder, config, seed)
    raise DataError(f"data.dir={folder}: it has no data in a known layout", HINT)


@functools.lru_cache(maxsize=4)  # the trials of a search have the same data
def _converted(source: Source, num_classes: int | None, cache: Path) -> Path:
    """Return the folder of the converted data; write it if the cache does not have it."""
    arrays = source.read()
    datasets.check(source.parts, arrays, num_classes, HINT)
    folder = cache / datasets.digest(*arrays)
    if not folder.is_dir():
        _write(folder, arrays)
    return folder


def _write(folder: Path, arrays: Arrays) -> None:
    hint = "MNIST_CNN_CACHE=FOLDER in front of the command"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(folder.parent), hint) from error
    try:
        with atomic.new_folder(folder, hint) as temporary:
            for name, array in zip(NAMES, arrays, strict=True):
                _write_idx(temporary / name, array)
    except BackendError:
        if not folder.is_dir():  # otherwise another process has just written the same data
            raise


def _write_idx(path: Path, array: Array) -> None:
    with path.open("wb") as file:
        file.write(struct.pack(f">4B{array.ndim}I", 0, 0, UBYTE, array.ndim, *array.shape))
        file.write(array.data)
