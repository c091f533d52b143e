"""Files that anybody may have put there, opened and read within bounds.

A pipe without a writer would make whoever opens it wait for ever, and a device may never end; neither is a
file here. Knows nothing of what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

SETTINGS_BYTES = 4 * 1024**2
"""The most that a file of settings may have: a job with its network, a receipt, a workspace's config.json."""

HISTORY_BYTES = 32 * 1024**2
"""The most that a file with a history may have: 100,000 epochs, the most that there can be, take 30 MB."""


def open_file(path: Path, most: int | None = None) -> BufferedReader:
    """Open a regular file, of at most `most` bytes, to read its bytes.

    Raises:
        OSError: it cannot be opened, is a folder, a pipe or a device, or is longer.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which waits for no writer
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and (most is None or found.st_size <= most):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, but {most} at most were expected", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most `most` bytes. Raises OSError as `open_file` does."""
    with open_file(path, most) as file:
        return file.read()


def read_text(path: Path, most: int, encoding: str = "utf-8") -> str:
    """Read a text of at most `most` bytes.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it is no text of this encoding.
    """
    return read_bytes(path, most).decode(encoding)
