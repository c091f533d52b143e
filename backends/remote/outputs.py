"""Downloads and verifies a completed run's result."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.failures import resume_hint
from mnist_cnn.backends.remote.node import OUTPUTS, PAUSED
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import MIN_BYTES_PER_SECOND
from mnist_cnn.errors import BackendError, RunPaused, storage_error
from mnist_cnn.files import atomic
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from mnist_cnn.backends.remote.service import Handle, Service
    from mnist_cnn.result import Result

PREFIX = ".downloading-"
"""Prefix of the folder for files that aren't verified."""
MIN_SECONDS = 300.0
MIN_FREE_BYTES = 65_536
"""Room for result.json and a run's final files."""


class ResultMissing(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service has no result, and won't get one."""


class ResultDamaged(BackendError):  # noqa: N818 - as above
    """A file of the result differs from its checksum.

    Its download may have gone wrong.
    """


def download(service: Service, handle: Handle) -> None:
    """Download the result and its files.

    Writes result.json last, when all are verified.

    Raises:
        RunPaused: the run is paused.
        ResultMissing: there is none, it belongs to another job, or it names a missing file.
        ResultDamaged: a downloaded file, or result.json, differs from its checksum.
        BackendError: a download failed, and may be tried again.
    """
    folder = handle.folder
    names = with_retries(lambda: service.files(handle))
    if PAUSED in names:  # its log could not be read
        raise RunPaused("paused (pause_after)", resume_hint(folder))
    if run_folder.RESULT not in names:
        message = f"the run is completed, but its {OUTPUTS}/ has no {run_folder.RESULT}"
        raise ResultMissing(message, resume_hint(folder))
    for leftover in folder.glob(f"{PREFIX}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder, ignore_cleanup_errors=True) as temporary:
            _download_verified(service, handle, names, Path(temporary))
    except OSError as error:
        raise _retry_later(storage_error(error, str(folder)), folder) from error


def _retry_later(error: BackendError, folder: Path) -> BackendError:
    then = f"then download the result: {command_line('follow', folder)}"
    return BackendError(error.message, f"{error.hint}; {then}")


def _damaged(message: str, folder: Path) -> ResultDamaged:
    again = f"download it again: {command_line('follow', folder)}"
    return ResultDamaged(message, f"{again}; or give it up: {command_line('cancel', folder)}")


def _check_free_space(folder: Path, size: int) -> None:
    """Raise OSError if less than `size` bytes are free.

    The SDK would retry for minutes.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _download_verified(service: Service, handle: Handle, names: list[str], temporary: Path) -> None:
    """Download into `temporary`, verify, then move the files."""
    folder, download_one = handle.folder, partial(_download, service, handle, temporary=temporary)
    _check_free_space(temporary, MIN_FREE_BYTES)
    download_one(run_folder.RESULT, seconds=MIN_SECONDS)
    try:
        result = run_folder.read_result(temporary, folder / run_folder.RESULT)
    except BackendError as error:
        raise _damaged(error.message, folder) from error
    assert result is not None  # noqa: S101 - it was just downloaded
    _check(result, names, folder)
    for name, entry in result.files.items():
        report(f"downloading {name}, {entry.bytes:,} bytes")
    # The files share the bandwidth, and so the time limit.
    size = sum(entry.bytes for entry in result.files.values())
    _check_free_space(temporary, size + MIN_FREE_BYTES)
    seconds = MIN_SECONDS + size / MIN_BYTES_PER_SECOND
    run_parallel(*(partial(download_one, name, seconds=seconds) for name in result.files))
    for name, entry in result.files.items():
        if (problem := run_folder.file_problem(temporary / name, entry)) is not None:
            raise _damaged(f"{folder / name} {problem}", folder)
    try:
        for name in (*result.files, run_folder.RESULT):
            with atomic.replacing(folder / name) as synced:  # on the disk before the receipt says "completed"
                (temporary / name).replace(synced)
    except BackendError as error:
        raise _retry_later(error, folder) from error


def _check(result: Result, names: list[str], folder: Path) -> None:
    """Check the result's job and files.

    The files must exist and belong in a run folder.
    """
    if result.job_digest != run_folder.read_receipt(folder).job_digest:
        message = f"the run's result belongs to another job, {result.job_digest[:12]}"
        raise ResultMissing(message, resume_hint(folder))
    for name in result.files:
        if Path(name).name != name or name in (run_folder.JOB, run_folder.RECEIPT, run_folder.LOG):
            message = f"the run's result names the file {name}, which a training never writes"
            raise ResultMissing(message, "start a new run")
        if name not in names:
            message = f"the run's {OUTPUTS}/ has no {name}, which its result names"
            raise ResultMissing(message, resume_hint(folder))


def _download(service: Service, handle: Handle, name: str, *, temporary: Path, seconds: float) -> None:
    def download() -> None:
        with tempfile.TemporaryDirectory(dir=temporary) as own:  # an abandoned attempt may still write
            target = Path(own) / name
            service.download(handle, name, target, seconds)
            target.replace(temporary / name)

    with_retries(download)
