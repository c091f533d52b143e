"""The node's script for SDK v1.

It lies at the root of the code, beside mnist_cnn/, and trains with that copy. The service keeps ./outputs,
and stores the message with which a failed script exits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE))

from mnist_cnn.backends.azure.metrics import Metrics, train  # noqa: E402 - only now is it the copy

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunMetrics(Metrics):
    """Sends metrics through the SDK, which batches them."""

    def __init__(self) -> None:
        self._run: Any = None
        self.attempt("reach the run", self._open)

    def send(self, values: Mapping[str, float], step: int) -> None:  # noqa: ARG002 - they are rows of a table
        """Send each value as a row of its metric."""
        for name, value in values.items() if self._run is not None else ():
            self._run.log(name, value)

    def flush(self) -> None:
        """Wait until all metrics are sent."""
        if self._run is not None:
            self._run.flush(timeout_seconds=60)

    def _open(self) -> None:
        from azureml.core import Run

        self._run = Run.get_context()


if __name__ == "__main__":
    raise SystemExit(train(HERE, RunMetrics))
