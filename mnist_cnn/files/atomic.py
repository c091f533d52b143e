"""Files that are there whole or not at all: written beside their place, synced, then renamed.

Knows nothing of what is in them.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".writing-"
"""How the name of a file begins that is still being written."""
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that sync no folder, as some of networks do (fsync(2))."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder, with the same suffix; rename it to `path` at the end.

    Where the body raises, nothing is left and `path` is as it was. What is `durable` is on the disk when this
    returns, so that it outlives a loss of power; that takes milliseconds.

    Raises:
        BackendError: the file cannot be written (full disk, no permission).
    """
    try:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode_of_new_files())
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync_names(path.parent)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write UTF-8 `text` to `path`, atomically. Raises as `replacing` does."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_names(folder: Path) -> None:
    """Have a folder's names written to the disk, where its file system lets a folder be synced."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def mode_of_new_files() -> int:
    """Return the mode that `open` gives a new file; one made by `tempfile` is for its owner alone."""
    mask = os.umask(0o077)  # POSIX only tells the umask to whoever sets it
    os.umask(mask)
    return 0o666 & ~mask
