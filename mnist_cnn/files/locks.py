"""File locks, held by one process at a time.

The system releases them when the process dies.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_cnn.errors import BackendError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_SECONDS = 60.0


class LockTimeout(BackendError):  # noqa: N818 - like TimeoutError, it names what ran out
    """Another process held the lock until the timeout."""


@contextmanager
def hold(path: Path, timeout: float = TIMEOUT_SECONDS, setting: str = "") -> Iterator[None]:
    """Hold the lock file `path` while the body runs.

    Waits up to `timeout` seconds for it. `setting`, if any, is the override that moves the folder to another
    disk; hints name it.

    Raises:
        LockTimeout: another process held the lock until the timeout.
        BackendError: the file cannot be written, or the file system does not support locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout as error:  # a subclass of OSError
        message = f"{path.parent} is locked by another process"
        raise LockTimeout(message, "try again when that process has ended") from error
    except NotImplementedError as error:
        message = f"the file system of {path.parent} does not support locks"
        raise BackendError(message, f"use a disk that does{setting and f', with {setting}'}") from error
    except OSError as error:
        raise storage_error(error, str(path.parent), setting) from error
    try:
        yield
    finally:
        lock.release()
