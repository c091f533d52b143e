"""The node's script on Azure: trains as every node does, and sends metrics to the service.

It lies at the root of the snapshot beside mnist_cnn/, and trains only with that copy. The service keeps
./outputs, and stores the message with which a failed script exits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE))

from mnist_cnn.backends.azure.metrics import Metrics  # noqa: E402 - only now is it the copy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(words: Sequence[str] | None = None) -> int | str:
    """Train the job in the current folder; return 0, or the error message."""
    from mnist_cnn.backends.remote import node

    return node.main(words, HERE, RunMetrics, os.environ.get("AZUREML_RUN_ID"))


class RunMetrics(Metrics):
    """Sends metrics through the SDK, which sends them in batches."""

    def __init__(self) -> None:
        self._run: Any = None
        self.attempt("reach the run", self._open)

    def send(self, values: Mapping[str, float], step: int) -> None:  # noqa: ARG002 - they are rows of a table
        """Send the values, each as a row of its metric."""
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
    from mnist_cnn.redaction import redacted

    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    raise SystemExit(main())
