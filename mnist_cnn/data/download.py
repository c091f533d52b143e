"""The named data sets and their download.

The set in the package (mnist) is only checked; the others are downloaded when they are first used and kept in
a cache folder. sources.toml gives each file's name, size and SHA-256. pooch and requests are imported only to
download or to find the cache. Two environment variables matter, and only then:

- `MNIST_CNN_CACHE`: the folder for downloads, with a folder per set; the default is the user's cache folder.
- `MNIST_CNN_MIRROR`: a URL that has NAME/FILE (as in kmnist/train-images-idx3-ubyte.gz), used instead of the
  set's own. A mirror need not be trusted, because the checksums are those of sources.toml.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mnist_cnn.errors import BackendError, ConfigurationError, DataError, storage_error
from mnist_cnn.files.atomic import default_file_mode
from mnist_cnn.hints import did_you_mean
from mnist_cnn.redaction import without_secrets

if TYPE_CHECKING:
    from requests import Response

DATASETS_DIR = Path(__file__).parent
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""Official names, without .gz, in the order of `Source.files`."""

RETRIES = 2  # after a transient failure, after 1 and 2 seconds
TRANSIENT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # the 4xx statuses worth a retry
TIMEOUTS = (10.0, 30.0)  # seconds to wait for a connection, and for the next bytes on it
PACKAGED_HINT = "the installation is damaged; install the package again"


@dataclass(frozen=True)
class SourceFile:
    """A gzipped file: size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A named set. One without a `url` is packaged.

    The `digest` of others isn't known. `files` are training images, training labels, test images, test
    labels. The defaults are MNIST's, whose form the other sets share.
    """

    name: str
    train_images: int = 60_000
    test_images: int = 10_000
    height: int = 28
    width: int = 28
    classes: int = 10
    files: tuple[SourceFile, ...] = ()
    url: str = ""
    digest: str = ""


@cache
def sources() -> dict[str, Source]:
    """Read sources.toml: the named sets by name."""
    table = tomllib.loads((DATASETS_DIR / "sources.toml").read_text(encoding="utf-8"))
    return {name: _source(name, values) for name, values in table.items()}


def _source(name: str, values: dict[str, Any]) -> Source:
    files = zip(NAMES, values["files"], strict=True)
    described = tuple(SourceFile(f"{stem}.gz", size, sha256) for stem, (size, sha256) in files)
    return Source(**{**values, "name": name, "files": described})


def find_source(name: str) -> Source:
    """Return the named set. Raises ConfigurationError if unknown."""
    try:
        return sources()[name]
    except KeyError:
        known = ", ".join(sources())
        hint = did_you_mean(name, list(sources()), "to use your own four files, set data.dir=FOLDER")
        raise ConfigurationError(f"data.name={name}: must be one of {known}", hint) from None


def packaged(source: Source) -> tuple[Path, ...]:
    """Return a packaged set's files after checking checksums.

    Raises DataError if a file is missing, damaged or cannot be read.
    """
    paths = tuple(DATASETS_DIR / source.name / file.name for file in source.files)
    for path, file in zip(paths, source.files, strict=True):
        if not path.is_file():
            raise DataError(f"{path} is missing; it is part of this package", PACKAGED_HINT)
        if not _is_intact(path, file, PACKAGED_HINT):
            message = f"{path} is damaged: its SHA-256 is not the packaged file's {file.sha256}"
            raise DataError(message, PACKAGED_HINT)
    return paths


def cache_folder(name: str) -> Path:
    """Return the folder for a downloaded set."""
    if chosen := os.environ.get("MNIST_CNN_CACHE"):
        return Path(chosen).expanduser() / name
    import pooch

    return Path(pooch.os_cache("mnist_cnn")) / name


def is_complete(source: Source) -> bool:
    """Return whether the cache has all files, intact.

    Raises DataError if one cannot be read.
    """
    return not _missing(source, cache_folder(source.name))


def fetch(source: Source, folder: Path, *, retries: int = RETRIES) -> tuple[Path, ...]:
    """Download a set's missing files; return all four paths.

    Each is downloaded completely or not at all. Files with the right size and SHA-256 are kept, others are
    replaced. Several processes may download at once. If stderr is a terminal, it shows a progress bar.

    Raises:
        DataError: the server cannot be reached, does not have the file, or sends other bytes.
        BackendError: the folder cannot be written.
    """
    if missing := _missing(source, folder):
        _download(source, folder, missing, retries)
    return tuple(folder / file.name for file in source.files)


def _missing(source: Source, folder: Path) -> list[SourceFile]:
    """Return the files that are missing or damaged."""
    hint = f"make {folder} readable for you, or choose another folder with MNIST_CNN_CACHE=FOLDER"
    return [file for file in source.files if not _is_intact(folder / file.name, file, hint)]


def _is_intact(path: Path, file: SourceFile, hint: str) -> bool:
    """Return whether a file has its size and SHA-256.

    Raises DataError with `hint` if it cannot be read.
    """
    try:
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", hint) from error


def _download(source: Source, folder: Path, files: list[SourceFile], retries: int) -> None:
    import logging

    import pooch
    from requests.exceptions import RequestException

    mirror = os.environ.get("MNIST_CNN_MIRROR")
    base = f"{mirror.rstrip('/')}/{source.name}" if mirror else source.url
    logger = pooch.get_logger()
    logger.setLevel(max(logger.level, logging.WARNING))
    registry = {file.name: f"sha256:{file.sha256}" for file in source.files}
    downloads = pooch.create(folder, base, registry=registry, retry_if_failed=retries)
    hint = (
        f"check the connection and try again, or download the four files from {base} yourself "
        "into FOLDER and set data.dir=FOLDER"
    )
    for file in files:
        url = downloads.get_url(file.name)
        try:
            downloads.fetch(file.name, downloader=_downloader(file))
        except RequestException as error:
            raise DataError(f"{url} cannot be downloaded: {_reason(error)}", hint) from without_secrets(error)
        except (ValueError, _Refused) as error:
            raise DataError(f"{url}: {error}", hint) from without_secrets(error)
        except OSError as error:
            message = storage_error(error, str(folder / file.name)).message
            room = f"check {folder} and its free space, or choose another folder with MNIST_CNN_CACHE=FOLDER"
            raise BackendError(message, room) from error


class _Refused(Exception):  # noqa: N818 - an HTTP status, which _download translates
    """The server refused, and would refuse a retry."""


def _reason(error: Exception) -> str:
    """Return a connection error's innermost reason, on one line."""
    inner = error.args[0] if error.args else error
    return " ".join(str(getattr(inner, "reason", inner)).split())


def _downloader(file: SourceFile) -> Any:
    """Return a pooch downloader, limited in time and size."""
    import pooch
    from requests.exceptions import HTTPError

    def download(url: str, path: str, downloads: Any) -> None:
        with ExitStack() as stack, Path(path).open("wb") as target:

            def close_later(response: Response, **_: Any) -> None:  # pooch does not close it after an error
                stack.callback(response.close)

            get = pooch.HTTPDownloader(
                progressbar=sys.stderr is not None and sys.stderr.isatty(),
                chunk_size=64 * 1024,
                timeout=TIMEOUTS,
                # Without this, a server may declare the file's own gzip as its encoding; requests undoes it.
                headers={"Accept-Encoding": "identity"},
                hooks={"response": close_later},
            )
            try:
                get(url, _LimitedFile(target, file), downloads)
            except HTTPError as error:
                answer = error.response
                status = answer.status_code if answer is not None else HTTPStatus.INTERNAL_SERVER_ERROR
                if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in TRANSIENT:
                    raise _Refused(f"the server answers {answer.status_code} {answer.reason}") from error
                raise
        Path(path).chmod(default_file_mode())  # only the owner can read pooch's temporary file

    return download


class _LimitedFile:
    """A file that accepts only its expected size.

    So no server can fill the disk.
    """

    def __init__(self, target: BinaryIO, file: SourceFile) -> None:
        self._target = target
        self._size = self._left = file.size

    def write(self, chunk: bytes) -> int:
        self._left -= len(chunk)
        if self._left < 0:  # a ValueError, like pooch's for a wrong checksum, so that pooch retries
            raise ValueError(f"the server sends more than the file's {self._size} bytes")
        return self._target.write(chunk)

    def flush(self) -> None:
        self._target.flush()
