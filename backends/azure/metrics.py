"""Sends a run's metrics from its node to the service, under the names that the tutorial uses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mnist_cnn.result import EpochRow, Result


class Metrics:
    """Sends metrics; a subclass says how. The first failure is printed; the training continues."""

    has_failed = False

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send the values of an epoch, or of the whole run if `step` is 0."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until all metrics are sent."""

    def on_epoch(self, row: EpochRow) -> None:
        """Send the metrics of an epoch."""
        values = {
            "epoch_loss": row.loss,
            "epoch_accuracy": row.accuracy,
            "val_loss": row.val_loss,
            "val_accuracy": row.val_accuracy,
        }
        self.attempt("send the metrics", partial(self.send, values, row.epoch))

    def on_end(self, result: Result | None) -> None:
        """Send the metrics on the test set, and all that were not sent yet."""
        if result is not None:
            values = {"accuracy": result.accuracy, "loss": result.loss}
            self.attempt("send the metrics", partial(self.send, values, 0))
        self.attempt("send the metrics", self.flush)

    def attempt(self, what: str, act: Callable[[], object]) -> None:
        """Act; a failure does not end the training."""
        from mnist_cnn.redaction import redact

        try:
            act()
        except Exception as error:  # noqa: BLE001 - as above
            if not self.has_failed:
                why = redact(f"{type(error).__name__}: {error}")
                print(f"cannot {what}: {why}; the training continues", flush=True)  # noqa: T201 - the run's log
            self.has_failed = True
