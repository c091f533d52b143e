"""Opens and reads untrusted files within a size limit.

Another user may have put them there. Opening a pipe without a writer would block forever, and a device may
never end, so both are refused.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

SETTINGS_BYTES = 4 * 1024**2
"""Size limit of a settings file.

Such a file is a job with its network, a receipt, or a workspace's config.json.
"""

HISTORY_BYTES = 32 * 1024**2
"""Size limit of a history.

The maximum of 100,000 epochs takes 30 MB.
"""


def open_file(path: Path | str, max_bytes: int | None = None) -> BufferedReader:
    """Open a regular file for reading.

    Raises OSError if it cannot be opened, is larger than `max_bytes`, or is a folder, a pipe or a device.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a pipe's writer
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and (max_bytes is None or found.st_size <= max_bytes):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    raise OSError(errno.EFBIG, f"it has {found.st_size} bytes; the limit is {max_bytes}", str(path))


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """Read a file. Raises OSError as `open_file` does."""
    with open_file(path, max_bytes) as file:
        return file.read()


def read_text(path: Path | str, max_bytes: int, encoding: str = "utf-8") -> str:
    """Read a text file.

    Raises OSError as `open_file` does, UnicodeDecodeError if it isn't such text.
    """
    return read_bytes(path, max_bytes).decode(encoding)
