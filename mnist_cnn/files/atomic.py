"""Writes files and folders atomically.

They get a temporary name, are synced to disk, then renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".writing-"
"""How the name of a temporary file begins."""
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot sync a folder.

Some network file systems cannot, see fsync(2).
"""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` afterwards.

    It has the same folder and suffix. If the body raises, the temporary file is removed and `path` is
    unchanged. If `durable`, the file is synced to disk, so that it survives a power failure; that takes
    milliseconds.

    Raises BackendError if the file cannot be written (full disk, no permission).
    """
    try:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(default_file_mode())
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, setting: str = "") -> Iterator[Path]:
    """Yield a temporary folder; rename it to `path` afterwards.

    No file may be at `path`. If the body raises, the temporary folder is removed. Its files are synced to
    disk.

    Raises BackendError if the folder cannot be written (full disk, no permission, `path` now exists). The
    `setting`, if any, moves it elsewhere.
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
    except OSError as error:
        raise storage_error(error, str(path), setting) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise storage_error(error, str(path), setting) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write UTF-8 text atomically. Raises as `replacing` does."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path, *, exist_ok: bool = False) -> None:
    """Make a folder and its parents, synced to disk.

    Raises OSError as `Path.mkdir` does.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for made in (path, *missing):
        sync(made.parent)


def sync(path: Path) -> None:
    """Sync a file or a folder to disk.

    A folder's names are synced if its file system supports that.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in CANNOT_SYNC):
            raise
    finally:
        os.close(handle)


def default_file_mode() -> int:
    """Return the mode that `open` gives a new file.

    `tempfile` makes files that only the owner can read.
    """
    return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)  # POSIX reveals the umask only by setting it
    os.umask(mask)
    return mask
