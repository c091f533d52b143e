"""Downloads a completed run's result into the run folder and verifies it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backends.azure.failures import resume_hint
from mnist_cnn.backends.azure.parallel import run_parallel
from mnist_cnn.backends.azure.service import ServiceError, call_with_retries, report
from mnist_cnn.backends.azure.upload import MIN_BYTES_PER_SECOND
from mnist_cnn.errors import BackendError, command_on, storage_error
from mnist_cnn.files import atomic

if TYPE_CHECKING:
    from mnist_cnn.result import Result

OUTPUTS = "outputs"
PREFIX = ".downloading-"
"""Prefix of the temporary folder where files lie until all are verified."""
MIN_SECONDS = 300.0
MIN_FREE_BYTES = 65_536
"""Room for result.json and for what is written at a run's end."""


class ResultMissing(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service has no result of the run, and will not get one."""


class ResultDamaged(BackendError):  # noqa: N818 - as above
    """A file of the result differs from its checksum in result.json."""


def download(run: Any, folder: Path) -> None:
    """Download the result and its files; result.json last, when all are verified.

    Raises:
        ResultMissing: there is none, it belongs to another job, or it names a missing file.
        ResultDamaged: a downloaded file differs from its checksum.
        BackendError: a download failed, and may be tried again.
    """
    names = call_with_retries("list the run's files", run.get_file_names)
    report(f"files: {', '.join(sorted(names)) or 'none'}")
    run_parallel(partial(_download_files, run, names, folder), partial(_report_metrics, run))


def _download_files(run: Any, names: list[str], folder: Path) -> None:
    if f"{OUTPUTS}/{run_folder.RESULT}" not in names:
        message = f"the run is completed, but its {OUTPUTS}/ has no {run_folder.RESULT}"
        raise ResultMissing(message, resume_hint(folder))
    for leftover in folder.glob(f"{PREFIX}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder, ignore_cleanup_errors=True) as temporary:
            _download_verified(run, names, Path(temporary), folder)
    except OSError as error:
        raise _retry_later(storage_error(error, str(folder)), folder) from error


def _retry_later(error: BackendError, folder: Path) -> BackendError:
    then = f"then download the result: {command_on('follow', folder)}"
    return BackendError(error.message, f"{error.hint}; {then}")


def _check_free_space(folder: Path, size: int) -> None:
    """Raise OSError if the disk has less than `size` bytes; the SDK would retry for minutes."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _download_verified(run: Any, names: list[str], temporary: Path, folder: Path) -> None:
    """Download into the folder `temporary`, verify, then move into the run folder."""
    _check_free_space(temporary, MIN_FREE_BYTES)
    _download(run, run_folder.RESULT, temporary, MIN_SECONDS)
    try:
        result = run_folder.read_result(temporary)
    except BackendError as error:
        raise ResultMissing(error.message, resume_hint(folder)) from error
    assert result is not None  # noqa: S101 - it was just downloaded
    _check(result, names, folder)
    for name, entry in result.files.items():
        report(f"downloading {name}, {entry.bytes:,} bytes")
    # The files share the bandwidth, and so the time limit.
    size = sum(entry.bytes for entry in result.files.values())
    _check_free_space(temporary, size + MIN_FREE_BYTES)
    seconds = MIN_SECONDS + size / MIN_BYTES_PER_SECOND
    run_parallel(*(partial(_download, run, name, temporary, seconds) for name in result.files))
    try:
        run_folder.verify(temporary, result)
    except BackendError as error:
        raise ResultDamaged(error.message, f"download it again: {command_on('follow', folder)}") from error
    try:
        for name in (*result.files, run_folder.RESULT):
            with atomic.replacing(folder / name) as synced:  # on the disk before the receipt says "completed"
                (temporary / name).replace(synced)
    except BackendError as error:
        raise _retry_later(error, folder) from error


def _check(result: Result, names: list[str], folder: Path) -> None:
    """Check that the result is this job's, and that its files exist and belong in a run folder."""
    if result.job_digest != run_folder.read_receipt(folder).job_digest:
        message = f"the run's result belongs to another job, {result.job_digest[:12]}"
        raise ResultMissing(message, resume_hint(folder))
    for name in result.files:
        if Path(name).name != name or name in (run_folder.JOB, run_folder.RECEIPT, run_folder.LOG):
            message = f"the run's result names the file {name}, which a training never writes"
            raise ResultMissing(message, "check the run in the studio")
        if f"{OUTPUTS}/{name}" not in names:
            message = f"the run's {OUTPUTS}/ has no {name}, which its result names"
            raise ResultMissing(message, resume_hint(folder))


def _download(run: Any, name: str, temporary: Path, seconds: float) -> None:
    def download() -> None:
        with tempfile.TemporaryDirectory(dir=temporary) as own:  # an abandoned attempt may still write
            target = Path(own) / name
            run.download_file(f"{OUTPUTS}/{name}", output_file_path=str(target))
            target.replace(temporary / name)

    call_with_retries(f"download {name}", download, seconds)


def _report_metrics(run: Any) -> None:
    """Report the run's metrics; missing ones do no harm, because result.json has them."""
    try:
        metrics = call_with_retries("read the run's metrics", run.get_metrics)
    except ServiceError as error:
        report(f"{error.message}; result.json has them too")
        return
    last = {
        name: values[-1] if isinstance(values, list) else values for name, values in sorted(metrics.items())
    }
    report(f"metrics: {', '.join(f'{name} {value}' for name, value in last.items()) or 'none'}")
