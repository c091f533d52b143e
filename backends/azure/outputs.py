"""What a completed run has left in the service, brought into the run folder and checked."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backends.azure.parallel import run_parallel
from mnist_cnn.backends.azure.service import ServiceError, call_again, say
from mnist_cnn.errors import BackendError, storage_error
from mnist_cnn.files import atomic

if TYPE_CHECKING:
    from mnist_cnn.result import Result

OUTPUTS = "outputs"
PLACE = ".bringing-"
"""Begins the name of the folder where files lie until all are here and right."""
SLOWEST = 50_000
"""Bytes per second below which a download is given up."""
LEAST_SECONDS = 300.0
LEAST_ROOM = 65_536
"""Bytes that a result.json has room in, and what else is written at a run's end."""


class NoResult(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """What the service has of the run is no result of it, and will not become one."""


class NotWhole(BackendError):  # noqa: N818 - as above
    """A file of the result is not what the result says of it."""


def bring(run: Any, folder: Path) -> None:
    """Download the result and the files that it names; result.json comes last, when all are right.

    Raises:
        NoResult: there is none, or it belongs to another job, or names a file that is not there.
        NotWhole: a file that was brought is not what the result says.
        BackendError: a download failed, and may be tried again.
    """
    names = call_again("list the run's files", run.get_file_names)
    say(f"files: {', '.join(sorted(name for name in names if name.startswith(OUTPUTS))) or 'none'}")
    run_parallel(partial(_bring_files, run, names, folder), partial(_show_metrics, run))


def _bring_files(run: Any, names: list[str], folder: Path) -> None:
    if f"{OUTPUTS}/{run_folder.RESULT}" not in names:
        message = f"the run is completed, but its {OUTPUTS}/ has no {run_folder.RESULT}"
        raise NoResult(message, f"start it again: resume {folder}")
    for left in folder.glob(f"{PLACE}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=PLACE, dir=folder, ignore_cleanup_errors=True) as place:
            _bring(run, names, Path(place), folder)
    except OSError as error:
        worded = storage_error(error, str(folder))
        raise BackendError(worded.message, f"{worded.hint}; then bring it: follow {folder}") from error


def _check_room(folder: Path, size: int) -> None:
    """Raise OSError where the disk has not so many bytes; the SDK would try again for minutes."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _bring(run: Any, names: list[str], place: Path, folder: Path) -> None:
    _check_room(place, LEAST_ROOM)
    _download(run, run_folder.RESULT, place, LEAST_SECONDS)
    try:
        result = run_folder.read_result(place)
    except BackendError as error:
        raise NoResult(error.message, f"start it again: resume {folder}") from error
    assert result is not None  # noqa: S101 - it was just downloaded
    _check(result, names, folder)
    for name, entry in result.files.items():
        say(f"bringing {name}, {entry.bytes:,} bytes")
    size = sum(entry.bytes for entry in result.files.values())  # they share the way here, and so its time
    _check_room(place, size + LEAST_ROOM)
    seconds = LEAST_SECONDS + size / SLOWEST
    run_parallel(*(partial(_download, run, name, place, seconds) for name in result.files))
    try:
        run_folder.verify(place, result)
    except BackendError as error:
        raise NotWhole(error.message, f"bring it again: follow {folder}") from error
    try:
        for name in (*result.files, run_folder.RESULT):
            with atomic.replacing(folder / name) as temporary:  # on the disk, before "completed" is entered
                (place / name).replace(temporary)
    except BackendError as error:
        raise BackendError(error.message, f"{error.hint}; then bring it: follow {folder}") from error


def _check(result: Result, names: list[str], folder: Path) -> None:
    """Check that the result is this job's, and that its files are files of a run folder and are there."""
    if result.job_digest != run_folder.read_receipt(folder).job_digest:
        message = f"the run's result belongs to another job, {result.job_digest[:12]}"
        raise NoResult(message, f"start it again: resume {folder}")
    for name in result.files:
        if Path(name).name != name or name in (run_folder.JOB, run_folder.RECEIPT, run_folder.LOG):
            raise NoResult(
                f"the run's result names a file {name}, which no training writes", "look at the run"
            )
        if f"{OUTPUTS}/{name}" not in names:
            hint = f"start it again: resume {folder}"
            raise NoResult(f"the run's {OUTPUTS}/ has no {name}, which its result names", hint)


def _download(run: Any, name: str, place: Path, seconds: float) -> None:
    def download() -> None:
        with tempfile.TemporaryDirectory(dir=place) as own:  # an attempt that was given up may still write
            target = Path(own) / name
            run.download_file(f"{OUTPUTS}/{name}", output_file_path=str(target))
            target.replace(place / name)

    call_again(f"bring {name}", download, seconds)


def _show_metrics(run: Any) -> None:
    """Show the run's metrics; the truth is in result.json, so that missing ones do no harm."""
    try:
        metrics = call_again("read the run's metrics", run.get_metrics)
    except ServiceError as error:
        say(f"{error.message}; the result has them too")
        return
    last = {
        name: values[-1] if isinstance(values, list) else values for name, values in sorted(metrics.items())
    }
    say(f"metrics: {', '.join(f'{name} {value}' for name, value in last.items()) or 'none'}")
