"""The data sets: the four files of one, whether they fit each other, and the arrays that a training asks for.

A data set is four IDX files: of a named set (download.py says how those get here) or in a folder, `data.dir`.
`inspect` tells what can be known before a training starts; `load` gives the arrays. Knows numpy, which is
imported only when arrays are made, but neither TensorFlow nor Hydra, nor what an IDX file looks like (idx.py
does), nor how a file is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.config import DataConfig, Format
from mnist_cnn.data.download import (
    PACKAGED_HINT,
    Source,
    cache_folder,
    fetch,
    find_source,
    is_complete,
    packaged,
)
from mnist_cnn.data.idx import read_idx
from mnist_cnn.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.data.idx import Array

RANKS = (3, 1, 3, 1)
"""Ranks of the four files, in the order that they have everywhere here: images, labels; training, test."""

STEMS = (
    ("train-images-idx3-ubyte", "train-images"),
    ("train-labels-idx1-ubyte", "train-labels"),
    ("t10k-images-idx3-ubyte", "test-images"),
    ("t10k-labels-idx1-ubyte", "test-labels"),
)
"""The official name of each of the four files, then the tutorial's."""

FOLDER_HINT = "get the four files again, or leave out data.dir to use the packaged MNIST"


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a whole data set, before any limit. `location` is 'packaged' or its folder."""

    digest: str
    train_images: int
    test_images: int
    height: int
    width: int
    location: str


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images, uint8 (N, H, W, 1) or (N, 1, H, W), and labels, uint8 (N,); all are read-only views.

    The validation arrays have length 0 where none is asked for.
    """

    x_train: Array
    y_train: Array
    x_validation: Array
    y_validation: Array
    x_test: Array
    y_test: Array


def inspect(config: DataConfig, *, download: bool = True) -> DataSetInfo | None:
    """Check all that can be checked before a training starts.

    The packaged set is checked by the size and SHA-256 of its files, and nothing is unpacked. Any other is
    read whole. Returns None only for a set that is not in the cache where `download` is False; its limits
    are checked all the same.

    Raises:
        ConfigurationError: no such set; a limit above what there is; no image left to train on.
        DataError: a file is missing or is not what it should be, a download failed, or the data's
            digest is not `config.digest`.
        BackendError: a download cannot be stored.
    """
    source = None if config.dir is not None else find_source(config.name)
    if source is not None and source.url is None:
        info = _packaged_info(source)
        _check_classes(config, source)
    else:
        found = _locate(config, download=download)
        if found is None:
            assert source is not None  # noqa: S101 - a folder is found, or an error
            _check_limits(config, source.train_images, source.test_images)
            return None
        info = _info(_read_four(found, config.num_classes), found.location)
    _check_digest(config, info.digest, info.location)
    _check_limits(config, info.train_images, info.test_images)
    return info


def load(config: DataConfig) -> DataSet:
    """Read the four files, check them, and give the arrays that the configuration asks for.

    Of the first `train_limit` training images, the last `validation` are kept for validation. A named set
    that is not in the cache is downloaded.

    Raises: as `inspect`.
    """
    found = _locate(config, download=True)
    assert found is not None  # noqa: S101 - only without download can it be
    x_train, y_train, x_test, y_test = _read_four(found, config.num_classes)
    if config.digest is not None:
        _check_digest(config, digest(x_train, y_train, x_test, y_test), found.location)
    _check_limits(config, len(x_train), len(x_test))
    used = len(x_train) if config.train_limit is None else config.train_limit
    kept = used - config.validation
    x_train, x_test = _with_channel(x_train, config.format), _with_channel(x_test, config.format)
    return DataSet(
        x_train=x_train[:kept],
        y_train=y_train[:kept],
        x_validation=x_train[kept:used],
        y_validation=y_train[kept:used],
        x_test=x_test[: config.test_limit],
        y_test=y_test[: config.test_limit],
    )


def files(config: DataConfig) -> tuple[Path, ...]:
    """Return the four files of a data set as they are here, in the order of STEMS. Raises as `inspect`."""
    found = _locate(config, download=True)
    assert found is not None  # noqa: S101 - only without download can it be
    return found.paths


def digest(x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> str:
    """SHA-256, in hex, over the four whole arrays, in this order; images are (N, H, W).

    For each: its dtype as numpy writes it and its shape, as a line of text ("|u1 60000 28 28"), then its
    bytes in C order.
    """
    import numpy as np

    sha256 = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        sha256.update(" ".join([array.dtype.str, *map(str, array.shape)]).encode() + b"\n")
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


@dataclass(frozen=True)
class _Located:
    """Four files that are there, a place for people, and what to do where one of them is bad."""

    paths: tuple[Path, ...]
    location: str
    hint: str


def _locate(config: DataConfig, *, download: bool) -> _Located | None:
    """Find the four files; None where they would have to be downloaded and must not be."""
    if config.dir is not None:
        with _hint(FOLDER_HINT):
            return _Located(_in_folder(Path(config.dir)), config.dir, FOLDER_HINT)
    source = find_source(config.name)
    if source.url is None:
        return _Located(packaged(source), "packaged", PACKAGED_HINT)
    folder = cache_folder(source.name)
    if not download and not is_complete(source, folder):
        return None
    hint = f"delete {folder} and start again; its files are then downloaded again"
    return _Located(fetch(source, folder), str(folder), hint)


def _in_folder(folder: Path) -> tuple[Path, ...]:
    """Find the four files in a folder, under any accepted name."""
    try:
        if not folder.is_dir():
            found = "it is not a folder" if folder.exists() else "there is no such folder"
            raise DataError(f"data.dir={folder}: {found}")
        with os.scandir(folder):  # a folder that may not be listed says so here, not as missing files
            pass
        return tuple(_find(folder, stems) for stems in STEMS)
    except OSError as error:
        raise DataError(f"data.dir={folder}: cannot be read: {error.strerror or error}") from error


def _find(folder: Path, stems: tuple[str, ...]) -> Path:
    """Find one of the four files: the official name before the tutorial's, each gzipped before raw."""
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".gz", "")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder / names[0]} is missing; accepted names are {', '.join(names)}")


@contextmanager
def _hint(hint: str) -> Iterator[None]:
    """Say what to do about a DataError that does not say it yet: it depends on where the files are from."""
    try:
        yield
    except DataError as error:
        error.hint = error.hint or hint
        raise


def _packaged_info(source: Source) -> DataSetInfo:
    assert source.digest is not None  # noqa: S101 - so says sources.toml
    packaged(source)
    return DataSetInfo(
        digest=source.digest,
        train_images=source.train_images,
        test_images=source.test_images,
        height=source.height,
        width=source.width,
        location="packaged",
    )


def _read_four(found: _Located, num_classes: int) -> tuple[Array, Array, Array, Array]:
    """Read and check the four arrays: images (N, H, W), labels (N,).

    In two threads, as zlib and hashlib let go of the interpreter; the training images are most of the work.
    """
    with _hint(found.hint):
        with ThreadPoolExecutor(max_workers=2) as threads:
            x_train, y_train, x_test, y_test = threads.map(read_idx, found.paths, RANKS)
        train_images, train_labels, test_images, test_labels = found.paths
        _check_pair(train_images, x_train, train_labels, y_train, num_classes)
        _check_pair(test_images, x_test, test_labels, y_test, num_classes)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise DataError(
                f"{test_images}: images of {_size(x_test)} pixels were found, "
                f"but {_size(x_train)} were expected, as in {train_images}"
            )
    return x_train, y_train, x_test, y_test


def _info(arrays: tuple[Array, Array, Array, Array], location: str) -> DataSetInfo:
    x_train, y_train, x_test, y_test = arrays
    return DataSetInfo(
        digest=digest(x_train, y_train, x_test, y_test),
        train_images=len(x_train),
        test_images=len(x_test),
        height=x_train.shape[1],
        width=x_train.shape[2],
        location=location,
    )


def _check_pair(images: Path, x: Array, labels: Path, y: Array, num_classes: int) -> None:
    """Check one file of images against its labels."""
    if len(x) != len(y):
        raise DataError(
            f"{labels}: {len(y)} labels were found, "
            f"but {len(x)} were expected, one for each image of {images}"
        )
    largest = int(y.max())
    if largest >= num_classes:
        position = int((y >= num_classes).argmax())
        raise DataError(
            f"{labels}: label {int(y[position])} was found (label {position + 1} of {len(y)}), "
            f"but 0 to {num_classes - 1} were expected, as data.num_classes={num_classes}",
            f"if the labels are right, set data.num_classes={largest + 1}; if not, get the four files again",
        )


def _size(images: Array) -> str:
    return f"{images.shape[1]} x {images.shape[2]}"


def _with_channel(images: Array, format_: Format) -> Array:
    """Give (N, H, W) images their channel axis: a view, (N, H, W, 1) or (N, 1, H, W)."""
    import numpy as np

    return np.expand_dims(images, 1 if format_ is Format.channels_first else 3)


def _check_digest(config: DataConfig, found: str, location: str) -> None:
    if config.digest is not None and config.digest != found:
        raise DataError(
            f"data of digest {config.digest} were expected, but those found ({location}) have {found}",
            "get the data that are expected, or leave out data.digest to use those that are there",
        )


def _check_classes(config: DataConfig, source: Source) -> None:
    """Check for a named set, without its labels, what `_check_pair` checks with them."""
    if config.num_classes < source.classes:
        raise DataError(
            f"{source.name}: labels 0 to {source.classes - 1} were found, "
            f"but 0 to {config.num_classes - 1} were expected, as data.num_classes={config.num_classes}",
            f"set data.num_classes={source.classes}",
        )


def _check_limits(config: DataConfig, train_images: int, test_images: int) -> None:
    """Check the limits against what there is, and that an image is left to train on."""
    for key, limit, there in (
        ("data.train_limit", config.train_limit, train_images),
        ("data.test_limit", config.test_limit, test_images),
    ):
        if limit is not None and limit > there:
            raise ConfigurationError(
                f"{key}={limit}: allowed is a whole number from 1 to {there}, or null",
                f"the data set has {there} of these images; null uses all",
            )
    used = train_images if config.train_limit is None else config.train_limit
    if config.validation >= used:
        raise ConfigurationError(
            f"data.validation={config.validation}: allowed is a whole number from 0 to {used - 1}",
            f"of {used} training images in use, at least one must be left to train on",
        )
