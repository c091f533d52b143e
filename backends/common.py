"""The part that the runs of all backends share.

It reads a run's log and its end, and checks its model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.config import RegisterConfig
from mnist_cnn.errors import (
    ERRORS_BY_EXIT_CODE,
    BackendError,
    ConfigurationError,
    MnistCnnError,
    RunCancelled,
)
from mnist_cnn.files import safe_read
from mnist_cnn.hints import command_line
from mnist_cnn.result import percent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

LINE_BYTES = 1024**2  # a longer line of the log is yielded in pieces of this size


class LogReader:
    """Reads a run folder's log.txt as it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / run_folder.LOG
        self._position = 0

    def new_lines(self, *, is_last: bool = False) -> Iterator[str]:
        """Yield the lines added since the last call.

        Yields an unfinished line only if `is_last`. A missing log has no lines. Raises BackendError if the
        log cannot be read.
        """
        try:
            with safe_read.open_file(self._path) as file:
                file.seek(self._position)
                while line := file.readline(LINE_BYTES):
                    if not (line.endswith(b"\n") or len(line) == LINE_BYTES or is_last):
                        return
                    self._position += len(line)
                    yield from line.decode("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            message = f"cannot read {self._path}: {error.strerror}"
            raise BackendError(message, "check that it is a file that you may read") from error


def check_workers(job: Job, workers: int) -> None:
    """Check that workers divide the shards. Raises ConfigurationError."""
    shards = job.train.shards
    if shards % workers:
        message = f"backend.workers={workers} does not divide train.shards={shards}"
        several = f"train.shards={workers}" if shards == 1 else "a divisor of train.shards"
        raise ConfigurationError(message, f"set {several}; the number of shards is part of the job")


def error_class(exit_code: int | None) -> type[MnistCnnError]:
    """Return the class of error with this exit code."""
    known = {**ERRORS_BY_EXIT_CODE, MnistCnnError.exit_code: MnistCnnError}
    return known.get(exit_code or 0, BackendError)


def recorded_error(folder: Path, resume_hint: str | None = None) -> MnistCnnError:
    """Return the recorded error of an unsuccessful run.

    `resume_hint` is added if the backend failed, not the training.
    """
    receipt = run_folder.read_receipt(folder)
    if receipt.status is Status.cancelled:
        return cancelled_error(folder)
    kind = error_class(receipt.exit_code)
    then = resume_hint if kind is BackendError else None
    hints = (receipt.hint, then, f"the log is {folder / run_folder.LOG}")
    return kind(receipt.error or "the run failed", "; ".join(filter(None, hints)))


def cancelled_error(folder: Path) -> RunCancelled:
    """Return the error of a cancelled run.

    The receipt need not record the end.
    """
    receipt = run_folder.read_receipt(folder)
    hint = receipt.hint or f"resume it: {command_line('resume', folder)}"
    return RunCancelled(receipt.error or "the run was cancelled", hint)


def check_can_register(folder: Path, status: Status, name: str, min_accuracy: float) -> Result:
    """Return the result, if the model may be registered.

    Raises:
        ConfigurationError: the name or `min_accuracy` isn't valid.
        BackendError: the run isn't completed, or its test accuracy is below `min_accuracy`.
    """
    RegisterConfig(name=name, min_accuracy=min_accuracy)  # which checks both
    if status is not Status.completed:
        raise BackendError(f"{folder} is {status.value}, not completed", "register it when it is completed")
    result = run_folder.result_of(folder)
    if result.accuracy < min_accuracy:
        reason = f"test accuracy {percent(result.accuracy)} is below register.min_accuracy={min_accuracy:g}"
        raise BackendError(
            f"not registered: {reason}", "train a better model, or lower register.min_accuracy"
        )
    return result


def describe_run(run: Run) -> str:
    """Return `repr(run)`, without asking the service.

    It shows the folder, and the status in the receipt.
    """
    try:
        status = run_folder.read_receipt(run.folder).status.value
    except MnistCnnError:
        status = "its receipt cannot be read"
    return f"<{type(run).__name__} {run.folder}: {status}>"
