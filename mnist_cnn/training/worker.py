"""The process that trains a run folder's job.

`python -m mnist_cnn.training.worker FOLDER [--device D] ...` keeps the receipt up to date, and exits with the
code that the receipt records. Handles signals and the log; the computation is in `train`. With several
workers this process is worker 0, and starts the others with `--assist`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import (
    BackendError,
    MnistCnnError,
    RunCancelled,
    RunPaused,
    TrainingError,
    storage_error,
)
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact, redacted
from mnist_cnn.training.distributed.local_group import joined, started
from mnist_cnn.training.train import assist, train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import Progress

log = logging.getLogger("mnist_cnn")
_cancelled = threading.Event()


def main(arguments: list[str]) -> int:
    """Train a run folder's job; return the exit code.

    The receipt records it too, with the error's message and hint.
    """
    options = _parser().parse_args(arguments)
    folder: Path = options.folder
    print_log()
    if options.assist:
        log.setLevel(logging.WARNING)
        return _assist(folder, options.device)
    signal.signal(signal.SIGTERM, _cancel)
    _cancelled.clear()

    def on_progress(progress: Progress) -> None:
        if _cancelled.is_set():  # a library has caught the exception that the signal raised
            raise KeyboardInterrupt
        run_folder.check_still_ours(folder, receipt)
        run_folder.write_progress(folder, progress)

    try:
        run_folder.await_registration(folder, os.getpid())
        receipt = run_folder.read_receipt(folder)
    except BackendError as error:  # only the process that the receipt names may write it
        log.error("%s", error.message)  # noqa: TRY400 - this error needs no traceback
        return error.exit_code
    except KeyboardInterrupt:
        return RunCancelled.exit_code
    try:
        with translated_errors():
            job = run_folder.read_job(folder)
            assisting = [str(folder), "--device", options.device, "--assist"]
            with started(options.workers, job, assisting) as group, translated_errors():
                train(
                    job,
                    folder,
                    device=options.device,
                    force=options.force,
                    pause_after=options.pause_after,
                    on_progress=on_progress,
                    group=group,
                )
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result is written: too late to cancel
            run_folder.check_still_ours(folder, receipt)
            run_folder.record_end(folder, Status.completed)
    except KeyboardInterrupt:
        return _fail(folder, receipt, RunCancelled("the run was cancelled"))
    except MnistCnnError as error:
        return _fail(folder, receipt, error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument(run_folder.FORCE, action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(run_folder.PAUSE_AFTER, type=int)
    parser.add_argument("--assist", action="store_true")
    return parser


def _assist(folder: Path, device: str) -> int:
    """Train as an assisting worker; return the exit code.

    Worker 0 has started this one, and ends it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        with translated_errors():
            job = run_folder.read_job(folder)
            with joined(job) as group, translated_errors():
                assist(job, group, device=device)
    except MnistCnnError as error:  # worker 0 records it, if the two have met
        log.error("one of the workers: %s", error.message)  # noqa: TRY400 - this error needs no traceback
        return error.exit_code
    return 0


def print_log() -> None:
    """Print what this package logs, without libraries' logs."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(run_folder.LOG_FORMAT, run_folder.LOG_TIME))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _fail(folder: Path, receipt: Receipt, error: MnistCnnError) -> int:
    """Record an error; return its exit code.

    Writes it to log and receipt, if the disk isn't too full. The receipt is not changed if it now names
    another process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    status = Status.cancelled if isinstance(error, RunCancelled) else Status.failed
    if isinstance(error, RunPaused):
        status, error.hint = Status.paused, f"continue it: {command_line('resume', folder)}"
    try:
        log.error("%s%s", run_folder.STOPPED, error.message)
        run_folder.check_still_ours(folder, receipt)
        run_folder.record_end(folder, status, error)
    except MnistCnnError as unwritten:
        log.error("%s%s", run_folder.STOPPED, unwritten.message)  # noqa: TRY400 - this error needs no traceback
    return error.exit_code


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn a training's exceptions into this package's errors.

    An unexpected exception is a bug, and its traceback is printed. Secrets in it are redacted, because a
    library's exception may quote anything, for example the environment with the node's access token.
    """
    try:
        yield
    except MnistCnnError:
        raise
    except OSError as error:
        raise storage_error(error, str(error.filename or "the run folder")) from error
    except MemoryError as error:
        hint = "lower train.batch_size, or use a machine with more memory"
        raise TrainingError("the machine has too little memory for this training", hint) from error
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which may not be imported yet
            hint = "lower train.batch_size or the network's size"
            raise TrainingError("the device has too little memory for this training", hint) from error
        sys.stderr.write(redact(traceback.format_exc()))
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise MnistCnnError(f"a bug: {what}", "please report it, with the run's log.txt") from error


def _cancel(_signal_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the clean-up
    _cancelled.set()
    raise KeyboardInterrupt  # no Exception, because libraries catch those while they trace and export


if __name__ == "__main__":
    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # everything is written; TensorFlow takes up to two seconds to shut down
