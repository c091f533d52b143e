"""How a node's script sends metrics and names its worker. The MLflow server is a stand-in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mnist_cnn.backends.azure.metrics import MlflowMetrics, name_worker
from mnist_cnn.backends.remote import workers
from mnist_cnn.result import EpochRow

ROW = EpochRow(2, 0.5, 0.75, float("nan"), 0.25, 1.0, 2.0, metrics={"auc": 0.875})


class Server(HTTPServer):
    """Keeps what was posted; accepts the token `new` only."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.posted: list[Any] = []

    @property
    def variables(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.server_port}/mlflow/v2.0/ws?what=ever",
            "MLFLOW_TRACKING_TOKEN": "old",
            "MLFLOW_RUN_ID": "run-1",
            "MLFLOW_EXPERIMENT_ID": "experiment-1",
        }


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(200, {"token": "new"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_allowed = self.headers["Authorization"] == "Bearer new"
        if is_allowed:
            self.server.posted.append(body)
        self._answer(200 if is_allowed else 401, {})

    def _answer(self, status: int, body: Any) -> None:
        self.server.asked.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def test_an_epoch_is_one_request_and_an_expired_token_is_renewed(server: Server) -> None:
    metrics = MlflowMetrics(server.variables)
    metrics.on_epoch(ROW)
    metrics.on_epoch(ROW)
    log = "POST /mlflow/v2.0/ws/api/2.0/mlflow/runs/log-batch"
    renewed = "GET /history/v1.0/ws/experimentids/experiment-1/runs/run-1/token 200"
    assert server.asked == [f"{log} 401", renewed, f"{log} 200", f"{log} 200"]
    assert {body["run_id"] for body in server.posted} == {"run-1"}
    sent = [(metric["key"], metric["value"], metric["step"]) for metric in server.posted[0]["metrics"]]
    # Not a number is not in JSON.
    others = [("val_accuracy", 0.25, 2), ("val_auc", 0.875, 2)]
    assert sent == [("epoch_loss", 0.5, 2), ("epoch_accuracy", 0.75, 2), *others]


def test_metrics_that_cannot_be_sent_end_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = MlflowMetrics({})
    metrics.on_epoch(ROW)
    metrics.on_epoch(ROW)
    assert capsys.readouterr().out.count("cannot send the metrics") == 1


def test_a_node_of_several_learns_its_number_and_waits_for_slow_nodes() -> None:
    environment = {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105", "RANK": "1"}
    name_worker(environment)
    assert environment[workers.RANK] == "1"
    assert environment[workers.HOST] == "10.0.0.4"
    assert environment[workers.PORTS].split() == [str(port) for port in range(6105, 6113)]
    assert environment[workers.ARRIVAL] == "900"  # images are downloaded at different speeds


def test_a_single_node_has_no_number() -> None:
    environment = {"MASTER_ADDR": "10.0.0.4"}
    name_worker(environment)
    assert environment == {"MASTER_ADDR": "10.0.0.4"}
