"""The data sets: where their files are, whether they are sound, and their arrays.

A data set is four IDX files: the one inside the package (mnist), one downloaded on first use
(fashion_mnist, kmnist), or any four in a folder (`data.dir`). Every byte that is relied on is checked
before it is, and nothing is allocated or unpacked on the word of a header alone.

`inspect` tells what can be known before a training starts; `load` gives the arrays. Knows numpy, which is
imported only when arrays are made, but neither TensorFlow nor Hydra.

Two environment variables are read here, and only when a set is downloaded or looked for:

- `MNIST_CNN_CACHE`: the folder that downloads are kept in, each set in a folder of its own name; without it,
  the user's cache folder.
- `MNIST_CNN_MIRROR`: a URL under which NAME/FILE is found (as in kmnist/train-images-idx3-ubyte.gz), used in
  place of the set's own. A mirror need not be trusted: the checksums stay those of sources.toml.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import sys
import tomllib
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from mnist_cnn.config import DataConfig, Format, did_you_mean
from mnist_cnn.errors import BackendError, ConfigurationError, DataError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt
    from requests import Response

    Array = npt.NDArray[np.uint8]

DATASETS_DIR = Path(__file__).parent / "datasets"

MAX_BYTES = 2 * 1024**3
"""No file may promise more unpacked values than this; all of MNIST's training images are 47 MB."""

LARGEST_RATIO = 1032
"""Deflate packs no better than 1032 to 1: https://zlib.net/zlib_tech.html, "Maximum Compression Factor"."""

UBYTE = 0x08
"""The type byte of unsigned bytes in an IDX file's magic number; the byte after it is the rank."""

RANKS = (3, 1, 3, 1)
"""Ranks of the four files, in the order that they have everywhere here: images, labels; training, test."""

CONTENTS = {1: "labels", 3: "images"}

STEMS = (
    ("train-images-idx3-ubyte", "train-images"),
    ("train-labels-idx1-ubyte", "train-labels"),
    ("t10k-images-idx3-ubyte", "test-images"),
    ("t10k-labels-idx1-ubyte", "test-labels"),
)
"""The official name of each of the four files, then the tutorial's."""

RETRIES = 2
"""How often a download that failed in a way that may pass is tried again, after 1 and 2 seconds."""

MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""Those of HTTP's 4xx answers that are worth a retry."""

TIMEOUTS = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes on it."""

FOLDER_HINT = "get the four files again, or leave out data.dir to use the packaged MNIST"
PACKAGED_HINT = "the installation is damaged; reinstall with pip install --force-reinstall mnist-cnn"


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


@dataclass(frozen=True)
class SourceFile:
    """One gzipped file of a named set: its size in bytes and its SHA-256, in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A named set. Without a `url` it is inside the package, and its `digest` is known.

    `files` are training images, training labels, test images, test labels.
    """

    name: str
    homepage: str
    licence: str
    url: str | None
    digest: str | None
    train_images: int
    test_images: int
    height: int
    width: int
    classes: int
    files: tuple[SourceFile, ...]


@cache
def sources() -> dict[str, Source]:
    """Read sources.toml: each named set, by its name."""
    table = tomllib.loads((DATASETS_DIR / "sources.toml").read_text(encoding="utf-8"))
    return {name: _source(name, values) for name, values in table.items()}


def _source(name: str, values: dict[str, Any]) -> Source:
    files = tuple(SourceFile(file["name"], file["bytes"], file["sha256"]) for file in values["files"])
    described = {key: value for key, value in values.items() if key != "files"}
    return Source(**{"name": name, "url": None, "digest": None, **described, "files": files})


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
    source = None if config.dir is not None else _named(config.name)
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


def read_idx(path: Path, rank: int) -> Array:
    """Read an IDX file of unsigned bytes, gzipped or raw, as its first two bytes say; read-only.

    The format is described at http://yann.lecun.com/exdb/mnist/: two zero bytes, the type, the rank, each
    dimension as a big-endian 32-bit integer, then the values in C order.

    Raises:
        DataError: the file is missing, damaged, of another type or rank, longer or shorter than its header
            says, or larger than MAX_BYTES. What the header says is not allocated before the file is
            known to be long enough for it, and at most one byte beyond it is ever unpacked.
    """
    with _hint(FOLDER_HINT):
        return _read(path, rank)


# Which files


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
    source = _named(config.name)
    if source.url is None:
        return _Located(_packaged(source), "packaged", PACKAGED_HINT)
    folder = cache_folder(source.name)
    if not download and _missing(source, folder):
        return None
    hint = f"delete {folder} and start again; its files are then downloaded again"
    return _Located(fetch(source, folder), str(folder), hint)


def _named(name: str) -> Source:
    try:
        return sources()[name]
    except KeyError:
        known = ", ".join(sources())
        hint = did_you_mean(name, list(sources()), "your own four files are used with data.dir=FOLDER")
        raise ConfigurationError(f"data.name={name}: allowed is one of {known}", hint) from None


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


def _packaged(source: Source) -> tuple[Path, ...]:
    """Find the packaged files and check their sizes and checksums."""
    folder = DATASETS_DIR / source.name
    with _hint(PACKAGED_HINT):
        for file in source.files:
            path = folder / file.name
            if not path.is_file():
                raise DataError(f"{path} is missing; it is a part of this package")
            if not _is_intact(path, file):
                raise DataError(f"{path} is not the file of this package: expected SHA-256 {file.sha256}")
    return tuple(folder / file.name for file in source.files)


def _packaged_info(source: Source) -> DataSetInfo:
    assert source.digest is not None  # noqa: S101 - so says sources.toml
    _packaged(source)
    return DataSetInfo(
        digest=source.digest,
        train_images=source.train_images,
        test_images=source.test_images,
        height=source.height,
        width=source.width,
        location="packaged",
    )


def _is_intact(path: Path, file: SourceFile) -> bool:
    """Tell whether a file is there, with the size and SHA-256 that it should have."""
    try:
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


# What is in them


def _read_four(found: _Located, num_classes: int) -> tuple[Array, Array, Array, Array]:
    """Read and check the four arrays: images (N, H, W), labels (N,).

    In two threads, as zlib and hashlib let go of the interpreter; the training images are most of the work.
    """
    with _hint(found.hint):
        with ThreadPoolExecutor(max_workers=2) as threads:
            x_train, y_train, x_test, y_test = threads.map(_read, found.paths, RANKS)
        train_images, train_labels, test_images, test_labels = found.paths
        _check_pair(train_images, x_train, train_labels, y_train, num_classes)
        _check_pair(test_images, x_test, test_labels, y_test, num_classes)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise DataError(
                f"{test_images}: images of {_size(x_test)} pixels were found, "
                f"but {_size(x_train)} were expected, as in {train_images}"
            )
    return x_train, y_train, x_test, y_test


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


class _Stream(Protocol):
    """What is read from: `readinto` fills the view, or as much of it as there are bytes for."""

    def readinto(self, view: memoryview, /) -> int: ...


class _Gunzip:
    """The unpacked bytes of a gzip file (RFC 1952) of one member or several.

    Unpacks no more than it is asked for, unlike the standard library's, which unpacks ahead. zlib checks
    each member's checksum and length.
    """

    PACKED, UNPACKED = 64 * 1024, 1024 * 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = _gzip_member()
        self._packed = b""

    def readinto(self, view: memoryview, /) -> int:
        done = 0
        while done < len(view):
            self._packed = self._packed or self._file.read(self.PACKED)
            if self._member.eof:
                if not self._packed:
                    break
                self._member = _gzip_member()
            piece = self._member.decompress(self._packed, min(len(view) - done, self.UNPACKED))
            if not (piece or self._packed or self._member.eof):
                raise EOFError
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done


def _gzip_member() -> Any:
    """Unpack one gzip member: 16 asks zlib for its header and trailer, 15 is the largest window."""
    return zlib.decompressobj(wbits=16 + 15)


def _read(path: Path, rank: int) -> Array:
    """Read an IDX file; see `read_idx`. Errors have no hint yet."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a file")
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: _Stream = _Gunzip(file) if gzipped else file
            shape = _read_header(path, stream, rank)
            _check_length(path, shape, length, gzipped=gzipped)
            return _read_values(path, stream, shape)
    except zlib.error as error:
        raise DataError(f"{path}: a sound gzip file was expected, but it is damaged ({error})") from error
    except EOFError as error:
        raise DataError(
            f"{path}: a whole gzip file was expected, but it ends early (it is cut off)"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_header(path: Path, stream: _Stream, rank: int) -> tuple[int, ...]:
    """Read and check the magic number and the dimensions."""
    header = bytearray(4 + 4 * rank)
    filled = stream.readinto(memoryview(header))
    magic, expected = bytes(header[: min(4, filled)]), bytes((0, 0, UBYTE, rank))
    if magic != expected[: len(magic)]:
        raise DataError(f"{path}: {_wrong_magic(magic, rank)}")
    if filled < len(header):
        raise DataError(
            f"{path}: it ends after {filled} bytes, but an IDX header of {len(header)} was expected"
        )
    shape = struct.unpack(f">{rank}I", header[4:])
    if min(shape) < 1:
        raise DataError(f"{path}: its header says {_product(shape)}, but 1 or more of each was expected")
    if math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{path}: its header says {_product(shape)} = {math.prod(shape)} bytes, "
            f"but {MAX_BYTES} at most were expected"
        )
    return shape


def _wrong_magic(magic: bytes, rank: int) -> str:
    """Word a magic number that is not the one of unsigned bytes of this rank."""
    what = CONTENTS.get(rank, "values")
    wanted = bytes((0, 0, UBYTE, rank)).hex(" ")
    for other, content in CONTENTS.items():
        if other != rank and magic == bytes((0, 0, UBYTE, other)):
            return f"{content} were found, but {what} were expected; are image and label files swapped?"
    return (
        f"it starts with {magic.hex(' ')}, but an IDX file of {what} ({wanted}), gzipped or raw, was expected"
    )


def _check_length(path: Path, shape: tuple[int, ...], length: int, *, gzipped: bool) -> None:
    """Check that a file of this length can hold, or holds, what its header says."""
    expected = 4 + 4 * len(shape) + math.prod(shape)
    promise = f"its header says {_product(shape)}"
    if gzipped and length * LARGEST_RATIO < expected:
        raise DataError(
            f"{path}: {promise}, {expected} bytes in all were expected, "
            f"but {length} gzipped bytes cannot hold as much"
        )
    if not gzipped and length != expected:
        raise DataError(f"{path}: {promise}, {expected} bytes in all were expected, but it has {length}")


def _read_values(path: Path, stream: _Stream, shape: tuple[int, ...]) -> Array:
    """Read exactly the promised values, and find nothing after them."""
    import numpy as np

    values = np.empty(math.prod(shape), np.uint8)
    filled = stream.readinto(values.data)
    expected = f"its header says {_product(shape)}, so {values.size} bytes of values were expected"
    if filled < values.size:
        raise DataError(f"{path}: {expected}, but it has {filled}")
    if stream.readinto(memoryview(bytearray(1))):
        raise DataError(f"{path}: {expected}, but it has more")
    values.flags.writeable = False
    return values.reshape(shape)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _with_channel(images: Array, format_: Format) -> Array:
    """Give (N, H, W) images their channel axis: a view, (N, H, W, 1) or (N, 1, H, W)."""
    import numpy as np

    return np.expand_dims(images, 1 if format_ is Format.channels_first else 3)


# Whether they are what the configuration asks for


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


@contextmanager
def _hint(hint: str) -> Iterator[None]:
    """Say what to do about a DataError that does not say it yet: it depends on where the files are from."""
    try:
        yield
    except DataError as error:
        error.hint = error.hint or hint
        raise


# Downloads


def cache_folder(name: str) -> Path:
    """Return the folder that a downloaded set is kept in. Reads the environment, makes nothing."""
    chosen = os.environ.get("MNIST_CNN_CACHE")
    if chosen:
        return Path(chosen).expanduser() / name
    import pooch

    return Path(pooch.os_cache("mnist_cnn")) / name


def fetch(source: Source, folder: Path, *, retries: int = RETRIES) -> tuple[Path, ...]:
    """Download those files of a set that are not in `folder` yet, each whole or not at all.

    Files with the right size and SHA-256 are left alone, others are replaced. Several processes may do so
    at once. A progress bar is shown where stderr is a terminal.

    Raises:
        DataError: the server cannot be reached, has no such file, or sends something else.
        BackendError: the folder cannot be written.
    """
    missing = _missing(source, folder)
    if missing:
        _download(source, folder, missing, retries)
    return tuple(folder / file.name for file in source.files)


def _missing(source: Source, folder: Path) -> list[SourceFile]:
    """Tell which files are not in the folder yet, or not as they should be."""
    with _hint(f"make {folder} readable for you, or choose another folder with MNIST_CNN_CACHE=FOLDER"):
        return [file for file in source.files if not _is_intact(folder / file.name, file)]


def _download(source: Source, folder: Path, files: list[SourceFile], retries: int) -> None:
    import logging

    import pooch
    from requests.exceptions import RequestException

    mirror = os.environ.get("MNIST_CNN_MIRROR")
    base = f"{mirror.rstrip('/')}/{source.name}" if mirror else str(source.url)
    logger = pooch.get_logger()
    logger.setLevel(max(logger.level, logging.WARNING))
    registry = {file.name: f"sha256:{file.sha256}" for file in source.files}
    downloads = pooch.create(folder, base, registry=registry, retry_if_failed=retries)
    by_hand = (
        f"look at the connection and try again, or download the four files by hand from {base} "
        "into FOLDER and use data.dir=FOLDER"
    )
    for file in files:
        url = downloads.get_url(file.name)
        try:
            downloads.fetch(file.name, downloader=_downloader(file))
        except RequestException as error:
            raise DataError(f"{url} cannot be downloaded: {_reason(error)}", by_hand) from error
        except (ValueError, _Refused) as error:
            raise DataError(f"{url}: {error}", by_hand) from error
        except OSError as error:
            message = storage_error(error, str(folder / file.name)).message
            hint = (
                f"look at {folder} and its free space, or choose another folder with MNIST_CNN_CACHE=FOLDER"
            )
            raise BackendError(message, hint) from error


class _Refused(Exception):  # noqa: N818 - an answer; translated where it is caught
    """The server's answer is final: trying again would not change it."""


def _reason(error: Exception) -> str:
    """Return the first, innermost sentence of a connection error, on one line."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return " ".join(str(reason).split())


def _downloader(file: SourceFile) -> Any:
    """Make pooch's way to get this file: HTTP with time-outs, of no more bytes than it should have."""
    import pooch
    from requests.exceptions import HTTPError

    def download(url: str, path: str, downloads: Any) -> None:
        with ExitStack() as stack, Path(path).open("wb") as target:

            def close_at_the_end(response: Response, **_: Any) -> None:  # pooch leaves it open on an error
                stack.callback(response.close)

            get = pooch.HTTPDownloader(
                progressbar=sys.stderr is not None and sys.stderr.isatty(),
                chunk_size=64 * 1024,
                timeout=TIMEOUTS,
                # Else a server may call the file's own gzip its encoding, and requests would undo it.
                headers={"Accept-Encoding": "identity"},
                hooks={"response": close_at_the_end},
            )
            try:
                get(url, _Bounded(target, file), downloads)
            except HTTPError as error:
                answer = error.response
                if answer is not None and _is_final(answer.status_code):
                    raise _Refused(f"the server answers {answer.status_code} {answer.reason}") from error
                raise

    return download


def _is_final(status: int) -> bool:
    """Tell whether an HTTP error (400 and above) would be the same next time."""
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in MAY_PASS


class _Bounded:
    """A file that takes no more bytes than it should have, so that no server can fill the disk."""

    def __init__(self, target: BinaryIO, file: SourceFile) -> None:
        self._target = target
        self._file = file
        self._left = file.size

    def write(self, chunk: bytes) -> int:
        self._left -= len(chunk)
        if self._left < 0:
            # A ValueError, as pooch raises for a wrong checksum: it tries again.
            raise ValueError(f"the server sends more than the {self._file.size} bytes that were expected")
        return self._target.write(chunk)

    def flush(self) -> None:
        self._target.flush()
