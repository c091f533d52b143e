"""The trainer as a process of this machine: `python -m mnist_cnn.training.worker FOLDER [DEVICE] [--force]`.

Trains the job of a run folder, keeps the receipt, and ends with the exit code that the receipt has. Knows how
a process is told to end and where its output goes; what is computed is `train`'s.
"""

from __future__ import annotations

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
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, TrainingError, storage_error
from mnist_cnn.redaction import redact
from mnist_cnn.training.train import train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.result import Progress

log = logging.getLogger("mnist_cnn")
_cancelled = threading.Event()


def main(arguments: list[str]) -> int:
    """Train the job of a run folder in this process, and keep its receipt: FOLDER [DEVICE] [--force].

    Everything printed goes to where this process's output goes. Returns the exit code, which the
    receipt has too, with the error's two lines.
    """
    words = [word for word in arguments if word != run_folder.FORCE]
    folder = Path(words[0])
    device = words[1] if len(words) > 1 else "auto"
    print_log()
    signal.signal(signal.SIGTERM, _cancel)
    _cancelled.clear()

    def tell(progress: Progress) -> None:
        if _cancelled.is_set():  # a library has caught what the signal raised
            raise KeyboardInterrupt
        run_folder.check_still_ours(folder, entry)
        run_folder.write_progress(folder, progress)

    try:
        run_folder.await_registration(folder, os.getpid())
        entry = run_folder.read_receipt(folder)
    except BackendError as error:  # the receipt is for whom it names to write
        log.error("%s", error.message)  # noqa: TRY400 - a worded error needs no traceback
        return error.exit_code
    except KeyboardInterrupt:
        return RunCancelled.exit_code
    try:
        with worded_failures():
            job = run_folder.read_job(folder)
            train(job, folder, device=device, force=run_folder.FORCE in arguments, on_progress=tell)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result is written: it is too late to cancel
            run_folder.check_still_ours(folder, entry)
            run_folder.record_end(folder, Status.completed)
    except KeyboardInterrupt:
        return _fail(folder, entry, RunCancelled("the run was cancelled"))
    except MnistCnnError as error:
        return _fail(folder, entry, error)
    return 0


def print_log() -> None:
    """Print what this package logs; what the libraries log is theirs to print."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(run_folder.LOG_FORMAT, run_folder.LOG_TIME))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _fail(folder: Path, entry: run_folder.Receipt, error: MnistCnnError) -> int:
    """Enter an error into log and receipt; return its exit code, also where the disk takes neither.

    Where the receipt is not this process's `entry` any more, it is another's to write.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        log.error("%s", error.message)
        run_folder.check_still_ours(folder, entry)
        run_folder.record_end(
            folder, Status.cancelled if isinstance(error, RunCancelled) else Status.failed, error
        )
    except MnistCnnError as unwritten:
        log.error("%s", unwritten.message)  # noqa: TRY400 - a worded error needs no traceback
    return error.exit_code


@contextmanager
def worded_failures() -> Iterator[None]:
    """Translate what a training can meet outside this package's own errors.

    What nobody foresaw is a bug, and told as one: its traceback is printed, without secrets, for an exception
    of somebody else's code may quote anything, the environment with the node's access token too.
    """
    try:
        yield
    except MnistCnnError:
        raise
    except OSError as error:
        raise storage_error(error, str(error.filename or "the run folder")) from error
    except MemoryError as error:
        hint = "lower train.batch_size, or choose another machine"
        raise TrainingError("the machine's memory does not suffice for this training", hint) from error
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which need not be imported yet
            hint = "lower train.batch_size or the network's size"
            raise TrainingError("the device's memory does not suffice for this training", hint) from error
        sys.stderr.write(redact(traceback.format_exc()))
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise MnistCnnError(f"a bug: {what}", "please report it, with the run's log.txt") from error


def _cancel(_signal_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would disturb what ends the run
    _cancelled.set()
    raise KeyboardInterrupt  # no Exception, for the libraries that trace and export catch those


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # all is written; TensorFlow would take up to two seconds to let go
