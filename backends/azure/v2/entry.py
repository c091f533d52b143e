"""The node's script for SDK v2: trains as every node does, and sends metrics to the workspace's MLflow.

It lies at the root of the code beside mnist_cnn/, and trains only with that copy. The service keeps
./outputs, and stores the message with which a failed script exits. It sets the `MLFLOW_...` variables:
https://github.com/Azure/azureml-examples/blob/main/cli/jobs/single-step/r/iris/src/azureml_utils.R
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE))

from mnist_cnn.backends.azure.metrics import Metrics  # noqa: E402 - only now is it the copy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_SECONDS = 20
UNAUTHORIZED = 401


def main(words: Sequence[str] | None = None) -> int | str:
    """Train the job in the current folder; return 0, or the error message."""
    from mnist_cnn.backends.remote import node

    return node.main(words, HERE, MlflowMetrics, os.environ.get("AZUREML_RUN_ID"))


class MlflowMetrics(Metrics):
    """Sends the metrics of an epoch with one request."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        names = ("TRACKING_URI", "TRACKING_TOKEN", "RUN_ID", "EXPERIMENT_ID")
        uri, self._token, self._run, self._experiment = (
            environment.get(f"MLFLOW_{name}", "") for name in names
        )
        self._address = uri.partition("?")[0].replace("azureml://", "https://", 1)

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send the values; renew the token if it has expired."""
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


if __name__ == "__main__":
    from mnist_cnn.redaction import redacted

    # Libraries and threads print there too.
    sys.stdout, sys.stderr = redacted(sys.stdout), redacted(sys.stderr)
    raise SystemExit(main())
