"""Checkpoints in a folder that the nodes share."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

from mnist_cnn.backends.remote.service import NOT_FOUND, Blob, ServiceError
from mnist_cnn.backends.slurm.commands import REFUSED
from mnist_cnn.errors import BackendError
from mnist_cnn.files import atomic, safe_read

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 2**40


class FolderStore:
    """Files below a folder, by relative path."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, folder: str) -> dict[str, Blob]:
        """Return a folder's files by whole name.

        Raises ServiceError.
        """
        found: dict[str, Blob] = {}
        try:
            for path in sorted(self._path(folder).iterdir()):
                if path.is_file() and not path.name.startswith(atomic.PREFIX):
                    with safe_read.open_file(path) as file:
                        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
                        found[f"{folder}/{path.name}"] = Blob(file.tell(), md5.hexdigest())
        except FileNotFoundError:  # also a checkpoint that the trainer has just removed
            return found
        except OSError as error:
            raise failure(f"list {self._root / folder}", error) from error
        return found

    def get(self, name: str, size: int) -> bytes:
        """Return a file's content. Raises ServiceError."""
        del size  # a shared disk needs no time limit
        try:
            return safe_read.read_bytes(self._path(name), MAX_BYTES)
        except OSError as error:
            raise failure(f"read {self._root / name}", error) from error

    def put(self, name: str, content: bytes) -> None:
        """Write a file atomically. Raises ServiceError."""
        path = self._path(name)
        try:
            atomic.make_folder(path.parent, exist_ok=True)
            with atomic.replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise failure(f"write {path}", error) from error
        except BackendError as error:
            raise ServiceError(error.message, error.hint, status=REFUSED) from error

    def remove(self, name: str) -> None:
        """Remove a file if it exists. Raises ServiceError."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise failure(f"remove {self._root / name}", error) from error

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts[len(self._root.parts) :] or name.startswith("/"):
            raise ServiceError(f"{name} is not a name below {self._root}", status=REFUSED)
        return path


def failure(what: str, error: OSError) -> ServiceError:
    """Return the error for an unusable file.

    It is transient only for an outage of a shared disk.
    """
    if isinstance(error, FileNotFoundError):
        status: int | None = NOT_FOUND
    else:
        status = None if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT) else REFUSED
    message = f"cannot {what}: {error.strerror or error}"
    return ServiceError(message, "check that folder and its disk", status=status)
