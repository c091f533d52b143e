"""A node's program: trains a job into ./outputs.

    python -m mnist_cnn.backends.remote.node --job TOKEN --data-folder FOLDER --checkpoints FOLDER

The log tells others how far the training is: lines that start with `PROGRESS`, `EPOCH` and `FAILURE` contain
JSON. With `--finish-epoch true`, SIGTERM ends the training at the end of its epoch, with a checkpoint.

With `--workers N`, N nodes share the training; see `workers`. Worker 0 writes the results and all that others
read in the log. If another worker fails, worker 0 reports the error.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.job import Job
    from mnist_cnn.result import EpochRow, Progress, Result
    from mnist_cnn.training.distributed.rendezvous import Rendezvous

FAILURE, PROGRESS, EPOCH = "mnist_cnn failure ", "mnist_cnn progress ", "mnist_cnn row "
"""Prefixes of log lines that contain JSON.

They mark the error, the progress, a row of the history.
"""
OUTPUTS = "outputs"
"""The folder for what a node's training writes."""
PAUSED = "paused.txt"
"""An output that a paused run writes.

It tells a pause from a lost result.
"""
PROGRESS_SECONDS = 5.0
MAX_ARGUMENT = 100_000
"""Characters. Linux accepts 131,072 bytes in one argument."""


def arguments(  # noqa: PLR0913 - only the first three are required
    job: Job,
    data_folder: str,
    checkpoints: str,
    *,
    device: str = "auto",
    force: bool = False,
    workers: int = 1,
    pause_after: int | None = None,
) -> tuple[str, ...]:
    """Return a node's command line, names and values alternating.

    The job is one base64url token. `force` resumes even if the job or the runtime has changed. The run pauses
    after the epoch `pause_after`. Raises ConfigurationError if the job is too long.
    """
    from mnist_cnn.errors import ConfigurationError

    token = encode(job)
    if len(token) > MAX_ARGUMENT:
        message = f"the job is {len(token)} characters as an argument; a node accepts {MAX_ARGUMENT}"
        raise ConfigurationError(message, "shorten the file of model.file")
    chosen = () if device == "auto" else ("--device", device)
    forced = ("--force", "true") if force else ()
    shared = () if workers == 1 else ("--workers", str(workers))
    pausing = () if pause_after is None else ("--pause-after", str(pause_after))
    folders = ("--data-folder", data_folder, "--checkpoints", checkpoints)
    return ("--job", token, *folders, *chosen, *forced, *shared, *pausing)


def without_job(words: Sequence[str]) -> str:
    """Return a node's command line without the job's text."""
    name, token, *others = words
    return " ".join((name, f"({len(token):,} characters: job.json in base64)", *others))


def encode(job: Job) -> str:
    """Return a job as a base64url token.

    It has letters, digits, '-' and '_'.
    """
    data, train = dataclasses.replace(job.data, dir=None), dataclasses.replace(job.train, init=None)
    portable = dataclasses.replace(job, data=data, train=train)
    return base64.urlsafe_b64encode(portable.to_json().encode()).decode().rstrip("=")


def decode(token: str) -> Job:
    """Return a token's job. Raises ConfigurationError if invalid."""
    from mnist_cnn.errors import ConfigurationError
    from mnist_cnn.job import Job

    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError as error:
        raise ConfigurationError("--job is not a job", "start the run with python -m mnist_cnn") from error
    return Job.from_json(text, "--job")


class Observer(Protocol):
    """Tells the service how a training goes."""

    def on_epoch(self, row: EpochRow) -> None:
        """Take the row of an epoch."""

    def on_end(self, result: Result | None) -> None:
        """Take the result, or None if the training failed."""


class NoObserver:
    """Does nothing, because the service only needs the log."""

    def on_epoch(self, row: EpochRow) -> None:
        """Do nothing."""

    def on_end(self, result: Result | None) -> None:
        """Do nothing."""


def main(
    words: Sequence[str] | None = None,
    code: Path | None = None,
    observer: Callable[[], Observer] = NoObserver,
    run_name: str | None = None,
) -> int | str:
    """Train the job; return 0 or an error message.

    Trains in the current folder. The result is for `SystemExit`. `code` is the folder of the copy of this
    package that must be used.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--data-folder", required=True, type=Path)
    parser.add_argument("--checkpoints", required=True, type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", choices=("true", "false"), default="false")
    parser.add_argument("--run", default=run_name)
    parser.add_argument("--finish-epoch", choices=("true", "false"), default="false")
    parser.add_argument("--workers", default=1, type=int)
    parser.add_argument("--pause-after", type=int)
    options = parser.parse_args(words)

    import mnist_cnn
    from mnist_cnn.backends.remote import workers
    from mnist_cnn.errors import MnistCnnError, RunPaused
    from mnist_cnn.training.worker import print_log

    if code is not None and code not in Path(mnist_cnn.__file__).resolve().parents:
        return f"mnist_cnn is {mnist_cnn.__file__}, not the snapshot's copy in {code}"
    print_log()
    observing: Observer = NoObserver()
    rendezvous = None
    try:
        if options.workers > 1:
            rendezvous = workers.rendezvous(options.workers)
            if rendezvous.rank:
                return _assist(options, rendezvous)
        observing = observer()
        result = _train(options, observing, rendezvous)
    except MnistCnnError as error:
        observing.on_end(None)
        _print_failure(error)
        return 0 if isinstance(error, RunPaused) else error.message
    observing.on_end(result)
    return 0


def _assist(options: argparse.Namespace, rendezvous: Rendezvous) -> int:
    """Train as a worker other than 0; return 0.

    Worker 0 reports what goes wrong here.
    """
    from mnist_cnn.backends.remote import workers
    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.training.train import assist, log
    from mnist_cnn.training.worker import translated_errors

    log.setLevel(logging.WARNING)
    job = _job(options)
    try:
        with translated_errors(), workers.join(job, rendezvous) as group, translated_errors():
            assist(job, group, device=options.device, is_stopping=_stop_flag(options))
    except MnistCnnError as error:
        log.warning("worker %d of %d stopped: %s", rendezvous.rank, rendezvous.count, error.message)
    return 0


def _train(options: argparse.Namespace, observer: Observer, rendezvous: Rendezvous | None) -> Result:
    from mnist_cnn.backends.remote import workers
    from mnist_cnn.training.checkpoint import MountedCheckpoints
    from mnist_cnn.training.train import train
    from mnist_cnn.training.worker import translated_errors

    job = _job(options)
    outputs = Path(OUTPUTS)

    def on_epoch(row: EpochRow) -> None:
        print(f"{EPOCH}{json.dumps(dataclasses.asdict(row))}", flush=True)
        observer.on_epoch(row)

    with translated_errors(), workers.join(job, rendezvous) as group, translated_errors():
        outputs.mkdir(exist_ok=True)
        return train(
            job,
            outputs,
            device=options.device,
            checkpoints=MountedCheckpoints(options.checkpoints),
            run_name=options.run,
            force=options.force == "true",
            pause_after=options.pause_after,
            on_epoch=on_epoch,
            on_progress=_progress_printer(),
            is_stopping=_stop_flag(options),
            group=group,
        )


def _job(options: argparse.Namespace) -> Job:
    job = decode(options.job)
    return dataclasses.replace(job, data=dataclasses.replace(job.data, dir=str(options.data_folder)))


def _stop_flag(options: argparse.Namespace) -> Callable[[], bool]:
    """Return a function that says whether to stop.

    SIGTERM asks for the end of the training after its epoch.
    """
    is_stopping = threading.Event()
    if options.finish_epoch == "true":
        signal.signal(signal.SIGTERM, lambda *_: is_stopping.set())
    return is_stopping.is_set


def _progress_printer() -> Callable[[Progress], None]:
    """Return a function that prints the progress.

    It prints a new status at once, else at most every few seconds.
    """
    last, status = 0.0, ""

    def print_progress(progress: Progress) -> None:
        nonlocal last, status
        if progress.status != status or time.monotonic() - last >= PROGRESS_SECONDS:
            last, status = time.monotonic(), progress.status
            print(f"{PROGRESS}{json.dumps(dataclasses.asdict(progress))}", flush=True)

    return print_progress


def _print_failure(error: MnistCnnError) -> None:
    from mnist_cnn.errors import RunPaused
    from mnist_cnn.run_folder import STOPPED
    from mnist_cnn.training.distributed.group import WorkerLost
    from mnist_cnn.training.train import log

    log.error("%s%s", STOPPED, error.message)
    fields: dict[str, Any] = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
    if isinstance(error, WorkerLost):
        fields["is_lost"] = True
    print(f"{FAILURE}{json.dumps(fields)}", flush=True)
    if isinstance(error, RunPaused):
        Path(OUTPUTS, PAUSED).write_text(f"{error.message}\n", encoding="utf-8")


if __name__ == "__main__":
    from mnist_cnn.redaction import redacted

    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    raise SystemExit(main())
