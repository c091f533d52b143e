"""The named data sets: what their files must be, and how those files get here.

One set is inside the package (mnist); the others are downloaded on first use and kept in a cache folder.
What sources.toml says is all that is known of them: a file is its name, its size and its SHA-256. Knows
pooch and requests, which are imported only where something is downloaded or the cache is looked for, but
not what is in a file, nor what a training asks for.

Two environment variables are read here, and only when a set is downloaded or looked for:

- `MNIST_CNN_CACHE`: the folder that downloads are kept in, each set in a folder of its own name; without it,
  the user's cache folder.
- `MNIST_CNN_MIRROR`: a URL under which NAME/FILE is found (as in kmnist/train-images-idx3-ubyte.gz), used in
  place of the set's own. A mirror need not be trusted: the checksums stay those of sources.toml.
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

from mnist_cnn.config import did_you_mean
from mnist_cnn.errors import BackendError, ConfigurationError, DataError, storage_error
from mnist_cnn.files.atomic import default_file_mode
from mnist_cnn.redaction import without_secrets

if TYPE_CHECKING:
    from requests import Response

DATASETS_DIR = Path(__file__).parent

RETRIES = 2
"""How often a download that failed in a way that may pass is tried again, after 1 and 2 seconds."""

MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""Those of HTTP's 4xx answers that are worth a retry."""

TIMEOUTS = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes on it."""

PACKAGED_HINT = "the installation is damaged; reinstall with pip install --force-reinstall mnist-cnn"


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


def find_source(name: str) -> Source:
    """Return the set of this name.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return sources()[name]
    except KeyError:
        known = ", ".join(sources())
        hint = did_you_mean(name, list(sources()), "your own four files are used with data.dir=FOLDER")
        raise ConfigurationError(f"data.name={name}: allowed is one of {known}", hint) from None


def packaged(source: Source) -> tuple[Path, ...]:
    """Return the four files of a set that is inside the package, with sizes and checksums checked.

    Raises:
        DataError: one is missing, damaged or cannot be read.
    """
    paths = tuple(DATASETS_DIR / source.name / file.name for file in source.files)
    for path, file in zip(paths, source.files, strict=True):
        if not path.is_file():
            raise DataError(f"{path} is missing; it is a part of this package", PACKAGED_HINT)
        if not _is_intact(path, file, PACKAGED_HINT):
            message = f"{path} is not the file of this package: expected SHA-256 {file.sha256}"
            raise DataError(message, PACKAGED_HINT)
    return paths


def cache_folder(name: str) -> Path:
    """Return the folder that a downloaded set is kept in. Reads the environment, makes nothing."""
    chosen = os.environ.get("MNIST_CNN_CACHE")
    if chosen:
        return Path(chosen).expanduser() / name
    import pooch

    return Path(pooch.os_cache("mnist_cnn")) / name


def is_complete(source: Source, folder: Path) -> bool:
    """Tell whether `folder` has all files of a set, each as it should be.

    Raises:
        DataError: one cannot be read.
    """
    return not _missing(source, folder)


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
    hint = f"make {folder} readable for you, or choose another folder with MNIST_CNN_CACHE=FOLDER"
    return [file for file in source.files if not _is_intact(folder / file.name, file, hint)]


def _is_intact(path: Path, file: SourceFile, hint: str) -> bool:
    """Tell whether a file is there, with its size and SHA-256; `hint` is for one that cannot be read."""
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
            message = f"{url} cannot be downloaded: {_reason(error)}"
            raise DataError(message, by_hand) from without_secrets(error)
        except (ValueError, _Refused) as error:
            raise DataError(f"{url}: {error}", by_hand) from without_secrets(error)
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
        Path(path).chmod(default_file_mode())  # pooch's temporary file is for its owner alone

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
