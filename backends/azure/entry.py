"""The node's script: decodes the job, trains it into ./outputs, sends metrics to the service.

It lies at the root of the snapshot beside mnist_cnn/, and trains only with that copy. The service keeps
./outputs. A failure is the run's error, and a line of the log that starts with `FAILURE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.result import EpochRow, Progress, Result

HERE = Path(__file__).resolve().parent
FAILURE, PROGRESS, EPOCH = "mnist_cnn failure ", "mnist_cnn progress ", "mnist_cnn row "
"""Prefixes of log lines that contain JSON: the error, the progress, a row of the history."""
PROGRESS_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int | str:
    """Train the job in the current folder; return 0, or the error message.

    If the script exits with a message, the service marks the run as failed and stores the message.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--data-folder", required=True, type=Path)
    parser.add_argument("--checkpoints", required=True, type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", choices=("true", "false"), default="false")
    options = parser.parse_args(arguments)

    import mnist_cnn
    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.training.worker import print_log

    if HERE not in Path(mnist_cnn.__file__).resolve().parents:
        return f"mnist_cnn is {mnist_cnn.__file__}, not the snapshot's copy in {HERE}"
    print_log()
    metrics = Metrics()
    try:
        result = _train(options, metrics)
    except MnistCnnError as error:
        metrics.flush()
        _print_failure(error)
        return error.message
    metrics.log(accuracy=result.accuracy, loss=result.loss)  # on the test set
    metrics.flush()
    return 0


def _train(options: argparse.Namespace, metrics: Metrics) -> Result:
    from mnist_cnn.backends.azure.plan import decode
    from mnist_cnn.training.checkpoint import MountedCheckpoints
    from mnist_cnn.training.train import train
    from mnist_cnn.training.worker import translated_errors

    job = decode(options.job)
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=str(options.data_folder)))
    outputs = Path("outputs")
    with translated_errors():
        outputs.mkdir(exist_ok=True)
        return train(
            job,
            outputs,
            device=options.device,
            checkpoints=MountedCheckpoints(options.checkpoints),
            run_name=os.environ.get("AZUREML_RUN_ID"),
            force=options.force == "true",
            on_epoch=lambda row: _print_epoch(row, metrics),
            on_progress=_progress_printer(),
        )


class Metrics:
    """Sends the run's metrics to the service. The first failure is printed; the training continues."""

    def __init__(self) -> None:
        self._run: Any = None
        self._has_failed = False
        self._attempt("reach the run", self._open)

    def log(self, **values: float) -> None:
        for name, value in values.items() if self._run is not None else ():
            self._attempt(f"log {name}", partial(self._run.log, name, value))

    def flush(self) -> None:
        if self._run is not None:
            self._attempt("send the metrics", lambda: self._run.flush(timeout_seconds=60))

    def _open(self) -> None:
        from azureml.core import Run

        self._run = Run.get_context()

    def _attempt(self, what: str, act: Callable[[], object]) -> None:
        from mnist_cnn.redaction import redact

        try:
            act()
        except Exception as error:  # noqa: BLE001 - metrics must not end the training
            if not self._has_failed:
                why = redact(f"{type(error).__name__}: {error}")
                print(f"cannot {what}: {why}; the training continues", flush=True)
            self._has_failed = True


def _progress_printer() -> Callable[[Progress], None]:
    """Return a function that prints the progress: a new status at once, else at most every few seconds."""
    last, status = 0.0, ""

    def print_progress(progress: Progress) -> None:
        nonlocal last, status
        if progress.status != status or time.monotonic() - last >= PROGRESS_SECONDS:
            last, status = time.monotonic(), progress.status
            print(f"{PROGRESS}{json.dumps(dataclasses.asdict(progress))}", flush=True)

    return print_progress


def _print_epoch(row: EpochRow, metrics: Metrics) -> None:
    print(f"{EPOCH}{json.dumps(dataclasses.asdict(row))}", flush=True)
    metrics.log(
        epoch_loss=row.loss,
        epoch_accuracy=row.accuracy,
        val_loss=row.val_loss,
        val_accuracy=row.val_accuracy,
    )


def _print_failure(error: MnistCnnError) -> None:
    from mnist_cnn.run_folder import STOPPED
    from mnist_cnn.training.train import log

    log.error("%s%s", STOPPED, error.message)
    fields = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
    print(f"{FAILURE}{json.dumps(fields)}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    from mnist_cnn.redaction import redacted

    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    raise SystemExit(main())
