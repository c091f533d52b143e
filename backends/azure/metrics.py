"""Trains on a node and sends metrics.

Both SDKs use it. The metrics have the names that the tutorial uses.
"""

from __future__ import annotations

import math
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence
    from pathlib import Path

    from mnist_cnn.result import EpochRow, Result

TIMEOUT_SECONDS = 20
UNAUTHORIZED = 401
PORTS = 8
"""How many ports worker 0 may try.

They start at the one that Azure names, which another program may have taken.
"""
ARRIVAL_SECONDS = 900
"""How long the workers wait for each other.

A node that downloads the image starts minutes later.
"""


def train(code: Path, metrics: Callable[[], Metrics], words: Sequence[str] | None = None) -> int | str:
    """Train the job; return 0 or an error message.

    The job is in the current folder; `code` is the folder of this copy of the code. Secrets are redacted in
    all output.
    """
    from mnist_cnn.backends.remote import node
    from mnist_cnn.redaction import redacted

    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    name_worker(os.environ)
    return node.main(words, code, metrics, os.environ.get("AZUREML_RUN_ID"))


def name_worker(environment: MutableMapping[str, str]) -> None:
    """Set this worker's variables from a distributed PyTorch job's.

    Azure sets the latter, whatever the image contains. A job of MPI would need MPI in the image:
    https://learn.microsoft.com/azure/machine-learning/how-to-train-distributed-gpu
    """
    from mnist_cnn.backends.remote import workers

    if "MASTER_ADDR" in environment and "RANK" in environment:
        first = int(environment["MASTER_PORT"])
        environment[workers.RANK] = environment["RANK"]
        environment[workers.HOST] = environment["MASTER_ADDR"]
        environment[workers.PORTS] = " ".join(str(port) for port in range(first, first + PORTS))
        environment[workers.ARRIVAL] = str(ARRIVAL_SECONDS)


class Metrics:
    """Sends metrics; a subclass says how.

    The first failure is printed; the training continues.
    """

    has_failed = False

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send an epoch's values, or the whole run's.

        Those of the run have `step` 0.
        """
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
            **{f"val_{name}": value for name, value in row.metrics.items()},
        }
        self.attempt("send the metrics", partial(self.send, values, row.epoch))

    def on_end(self, result: Result | None) -> None:
        """Send the metrics on the test set, then flush."""
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


class MlflowMetrics(Metrics):
    """Sends an epoch's metrics to the workspace's MLflow server.

    The service sets the `MLFLOW_...` variables on the nodes of SDK v2's jobs:
    https://github.com/Azure/azureml-examples/blob/main/cli/jobs/single-step/r/iris/src/azureml_utils.R
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        names = ("TRACKING_URI", "TRACKING_TOKEN", "RUN_ID", "EXPERIMENT_ID")
        uri, self._token, self._run, self._experiment = (
            environment.get(f"MLFLOW_{name}", "") for name in names
        )
        self._address = uri.partition("?")[0].replace("azureml://", "https://", 1)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send the values; renew an expired token."""
        now = int(time.time() * 1000)
        metrics = [
            {"key": name, "value": value, "timestamp": now, "step": step}
            for name, value in values.items()
            if math.isfinite(value)  # JSON has no others
        ]
        url = f"{self._address}/api/2.0/mlflow/runs/log-batch"
        body = {"run_id": self._run, "metrics": metrics}
        answer = self._request("POST", url, body)
        if answer.status_code == UNAUTHORIZED:
            self._renew_token()
            answer = self._request("POST", url, body)
        answer.raise_for_status()

    def _renew_token(self) -> None:
        service, _, workspace = self._address.partition("/mlflow/")
        history = f"{service}/history/v1.0/{workspace.partition('/')[2]}"
        answer = self._request("GET", f"{history}/experimentids/{self._experiment}/runs/{self._run}/token")
        answer.raise_for_status()
        self._token = answer.json()["token"]

    def _request(self, method: str, url: str, body: Any = None) -> Any:
        import requests

        headers = {"Authorization": f"Bearer {self._token}"}
        return requests.request(method, url, json=body, headers=headers, timeout=TIMEOUT_SECONDS)
