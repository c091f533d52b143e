"""Creates run folders.

Also takes over what a killed command has left of one.
"""

from __future__ import annotations

import secrets
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, storage_error
from mnist_cnn.files import atomic, locks
from mnist_cnn.hints import command_line
from mnist_cnn.run_folder import CHECKPOINTS, JOB, LOCK, PROGRESS, RECEIPT, START, TRACKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.job import Job


@contextmanager
def create(run_dir: str | None, runs_dir: str, job: Job) -> Iterator[Path]:
    """Create a run folder with its job.

    The folder is `run_dir`, or a new name under `runs_dir`. The body starts the run. If it raises before it
    has written the receipt, the folder is removed. A `run_dir` that a killed command left without a receipt
    is taken over. Raises ConfigurationError if `run_dir` isn't free, BackendError if the folder cannot be
    created.
    """
    folder = _make_folder(run_dir, runs_dir)
    with ExitStack() as stack:
        try:  # until there is a receipt, the lock shows that the process that made the folder is alive
            stack.enter_context(locks.hold(folder / START, 0, _elsewhere(run_dir)))
        except locks.LockTimeout as error:
            message = f"run_dir={folder}: another process is just starting a run there"
            raise ConfigurationError(message, "choose another folder") from error
        except BackendError:
            with suppress(OSError):
                folder.rmdir()
            raise
        check_free(folder, job)  # again: only now no other process takes it
        try:
            run_folder.clear_half_written(folder)
            run_folder.write_job(folder, job)
            yield folder
        except BaseException:
            remove_unstarted(folder)
            raise
        finally:
            with suppress(OSError):
                (folder / START).unlink()


def _make_folder(run_dir: str | None, runs_dir: str) -> Path:
    folder = Path(run_dir or runs_dir)
    try:
        if run_dir is not None:
            check_free(folder)
            atomic.make_folder(folder, exist_ok=True)
            return folder
        while True:
            folder = Path(runs_dir) / new_name()
            try:
                atomic.make_folder(folder)
            except FileExistsError:
                if not folder.exists():  # something above it is not a folder
                    raise
            else:
                return folder
    except OSError as error:
        raise storage_error(error, f"the run folder {folder}", _elsewhere(run_dir)) from error


def _elsewhere(run_dir: str | None) -> str:
    """Return the setting that moves a new run elsewhere.

    An existing run cannot move.
    """
    return "runs_dir=FOLDER" if run_dir is None else "run_dir=FOLDER"


def new_name() -> str:
    """Return a run's name: time and random suffix.

    Another process may draw the same name.
    """
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(2)}"


def remove_unstarted(folder: Path) -> None:
    """Remove a folder in which no run was started."""
    if not (folder / RECEIPT).exists():
        shutil.rmtree(folder, ignore_errors=True)


def check_free(folder: Path, job: Job | None = None) -> None:
    """Check that a run can start in a folder.

    It must be missing, empty, or left by a command that was killed as it started this job. Raises
    ConfigurationError if it isn't.
    """
    try:
        if not any(folder.iterdir()):
            return
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise ConfigurationError(f"run_dir={folder} is a file", "choose a new folder") from error
    except OSError as error:
        raise storage_error(error, f"the run folder {folder}", _elsewhere(str(folder))) from error
    if (folder / RECEIPT).exists():
        hint = f"resume it: {command_line('resume', folder)}; or choose another folder"
        raise ConfigurationError(f"run_dir={folder} already holds a run", hint)
    if not _holds_no_more_than_a_start(folder):
        raise ConfigurationError(f"run_dir={folder} is not empty and is not a run", "choose a new folder")
    if job is not None and (folder / JOB).exists() and run_folder.read_job(folder).digest != job.digest:
        message = f"run_dir={folder} holds another job, whose command was killed before it started"
        raise ConfigurationError(message, "remove that folder, or choose a new one")


def _holds_no_more_than_a_start(folder: Path) -> bool:
    """Return whether a folder holds only a start.

    That is what is written before the receipt; its job, if any, must be sound.
    """
    names = {path.name for path in folder.iterdir() if not path.name.startswith(atomic.PREFIX)}
    if not names <= {JOB, LOCK, START, PROGRESS, CHECKPOINTS, TRACKING}:
        return False
    try:
        if JOB in names:
            run_folder.read_job(folder)
    except MnistCnnError:
        return False
    return True


def is_unstarted(folder: Path) -> bool:
    """Return whether a killed command left this folder.

    It was killed before it wrote a receipt.
    """
    try:
        is_old = time.time() - folder.stat().st_mtime > run_folder.ENTRY_SECONDS
        is_left = any(path.name != LOCK for path in folder.iterdir())  # a killed `delete` may leave a lock
        return is_old and is_left and _holds_no_more_than_a_start(folder)
    except OSError:  # a file, or removed meanwhile
        return False
