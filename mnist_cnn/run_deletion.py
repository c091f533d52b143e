"""Deletes the folder of a run."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.hints import command_line, see_the_runs
from mnist_cnn.run_folder import LOCK, RECEIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnist_cnn.receipt import Receipt


def delete(folder: Path, receipt: Receipt, before_removal: Callable[[], None] | None = None) -> None:
    """Remove the folder of an ended run.

    It must still hold this receipt. Links are removed, not followed. `before_removal` is called after the
    check, under the lock, so that no process resumes the run meanwhile. The receipt is removed last: after a
    kill, the run is listed as failed, and can be deleted again. Raises BackendError if another process has
    deleted or resumed the run, or if a file cannot be removed.
    """
    try:
        with run_folder.lock(folder):
            _check_deletable(folder, receipt)
            if before_removal is not None:
                before_removal()
            hint = f"finish it: {command_line('delete', folder)}"
            half = dataclasses.replace(
                receipt,
                status=Status.failed,
                exit_code=ConfigurationError.exit_code,  # so that no hint says to resume it
                error="its deletion did not finish",
                hint=hint,
            )
            with suppress(BackendError):  # the disk may be full
                run_folder.write_receipt(folder, half)
            for path in sorted(folder.iterdir()):
                if path.name not in (RECEIPT, LOCK):  # a second process waits for the lock
                    _remove(path)
            (folder / RECEIPT).unlink()
    except (OSError, BackendError) as error:
        raise _not_deleted(folder, error) from error
    finally:
        _remove_without_receipt(folder)


def _check_deletable(folder: Path, receipt: Receipt) -> None:
    if run_folder.read_receipt(folder) != receipt:
        hint = f"check its status: {command_line('status', folder)}"
        raise BackendError(f"{folder} has changed since it was checked, and was not deleted", hint)


def _not_deleted(folder: Path, error: OSError | BackendError) -> BackendError:
    """Return why a run was not deleted."""
    if not (folder / RECEIPT).exists():
        return BackendError(f"{folder} is gone: another process has deleted it", see_the_runs())
    if isinstance(error, BackendError):
        return error
    hint = f"make it writable; then {command_line('delete', folder)}"
    return BackendError(f"cannot remove {error.filename}: {error.strerror}", hint)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_without_receipt(folder: Path) -> None:
    """Remove a folder without a receipt, and its lock.

    A process that waited for the lock may have made the folder anew. Does nothing if it has other files.
    """
    if not (folder / RECEIPT).exists():
        with suppress(OSError):  # a network file system may keep files that are open elsewhere
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
