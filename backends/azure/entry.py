"""What the node starts: decodes the job, trains it into ./outputs, sends its metrics to the run.

Stands at the root of the snapshot, beside mnist_cnn/, and trains with that copy and no other. The service
keeps ./outputs; what fails there is told by the run's error and by one line of the log (`FAILURE`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.result import EpochRow, Progress, Result

HERE = Path(__file__).resolve().parent
FAILURE, PROGRESS, EPOCH = "mnist_cnn failure ", "mnist_cnn progress ", "mnist_cnn row "
"""Begin the log lines whose rest is JSON: how the training failed, where it stands, a row of the history."""
PROGRESS_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int | str:
    """Train the job of the arguments in the current folder; return 0, or the line of what went wrong.

    Ended with such a line, the script is a failed run of the service, with the line in the run's error.
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
        return f"mnist_cnn is {mnist_cnn.__file__}, not the snapshot's in {HERE}"
    print_log()
    metrics = Metrics()
    try:
        result = _train(options, metrics)
    except MnistCnnError as error:
        metrics.flush()
        _tell_failure(error)
        return error.message
    metrics.log("accuracy", result.accuracy)
    metrics.log("loss", result.loss)
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
            force=options.force == "true",
            on_epoch=lambda row: _tell_epoch(row, metrics),
            on_progress=_teller(),
        )


class Metrics:
    """The run's metrics in the service. A failure to send them is named once and ends nothing."""

    def __init__(self) -> None:
        self._run: Any = None
        self._is_silent = False
        self._attempt("reach the run", self._open)

    def log_epoch(self, row: EpochRow) -> None:
        """Send an epoch's row; `accuracy` and `loss` are left for the final ones, on the test set."""
        self.log("epoch_loss", row.loss)
        self.log("epoch_accuracy", row.accuracy)
        self.log("val_loss", row.val_loss)
        self.log("val_accuracy", row.val_accuracy)

    def log(self, name: str, value: float) -> None:
        """Send one value."""
        if self._run is not None:
            self._attempt(f"log {name}", lambda: self._run.log(name, value))

    def flush(self) -> None:
        """Wait until what was logged has been sent."""
        if self._run is not None:
            self._attempt("send the metrics", lambda: self._run.flush(timeout_seconds=60))

    def _open(self) -> None:
        from azureml.core import Run

        self._run = Run.get_context()

    def _attempt(self, what: str, act: Callable[[], object]) -> None:
        from mnist_cnn.redaction import redact

        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises, the training goes on
            if not self._is_silent:
                why = redact(f"{type(error).__name__}: {error}")
                print(f"could not {what}: {why}; the training goes on", flush=True)
            self._is_silent = True


def _teller() -> Callable[[Progress], None]:
    """Return a function that prints where the training stands, now and then."""
    last = -PROGRESS_SECONDS

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            print(f"{PROGRESS}{json.dumps(dataclasses.asdict(progress))}", flush=True)

    return tell


def _tell_epoch(row: EpochRow, metrics: Metrics) -> None:
    print(f"{EPOCH}{json.dumps(dataclasses.asdict(row))}", flush=True)
    metrics.log_epoch(row)


def _tell_failure(error: MnistCnnError) -> None:
    from mnist_cnn.training.train import log

    log.error("%s", error.message)
    told = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
    print(f"{FAILURE}{json.dumps(told)}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    raise SystemExit(main())
