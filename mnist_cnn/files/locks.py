"""A lock in a file: held by one process at a time, and by none that has died."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_cnn.errors import BackendError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 60.0


class Held(BackendError):  # noqa: N818 - it tells where the lock is
    """Another process has held the lock for as long as it was waited for."""


@contextmanager
def hold(path: Path, seconds: float = SECONDS, elsewhere: str = "runs_dir=FOLDER") -> Iterator[None]:
    """Hold the lock in the file `path`; wait for it for `seconds`. `elsewhere` is the setting that moves it.

    Raises:
        Held: another process holds it all that time.
        BackendError: the file cannot be written, or its file system has no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:  # which is an OSError too
        raise Held(f"{path.parent} is held by another process", "try again when it has ended") from error
    except NotImplementedError as error:
        message = f"the file system of {path.parent} has no locks"
        raise BackendError(message, f"choose another with {elsewhere}") from error
    except OSError as error:
        raise storage_error(error, str(path.parent), elsewhere) from error
    try:
        yield
    finally:
        lock.release()
