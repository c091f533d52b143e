"""The node's script on Azure: trains as every node does, and sends metrics to the service.

It lies at the root of the snapshot beside mnist_cnn/, and trains only with that copy. The service keeps
./outputs, and stores the message with which a failed script exits.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_cnn.result import EpochRow, Result

HERE = Path(__file__).resolve().parent


def main(words: Sequence[str] | None = None) -> int | str:
    """Train the job in the current folder; return 0, or the error message."""
    from mnist_cnn.backends.remote import node

    return node.main(words, HERE, Metrics, os.environ.get("AZUREML_RUN_ID"))


class Metrics:
    """Sends the run's metrics to the service. The first failure is printed; the training continues."""

    def __init__(self) -> None:
        self._run: Any = None
        self._has_failed = False
        self._attempt("reach the run", self._open)

    def on_epoch(self, row: EpochRow) -> None:
        """Send the metrics of an epoch."""
        self._log(
            epoch_loss=row.loss,
            epoch_accuracy=row.accuracy,
            val_loss=row.val_loss,
            val_accuracy=row.val_accuracy,
        )

    def on_end(self, result: Result | None) -> None:
        """Send the metrics on the test set, and all that were not sent yet."""
        if result is not None:
            self._log(accuracy=result.accuracy, loss=result.loss)
        if self._run is not None:
            self._attempt("send the metrics", lambda: self._run.flush(timeout_seconds=60))

    def _log(self, **values: float) -> None:
        for name, value in values.items() if self._run is not None else ():
            self._attempt(f"log {name}", partial(self._run.log, name, value))

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


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    from mnist_cnn.redaction import redacted

    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    raise SystemExit(main())
