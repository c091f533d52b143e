"""MLflow's REST calls, with which a job logs metrics; `metrics.py` keeps them for both SDKs."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING

from .messages import Json, Request, Response, answer
from .refusals import Refusal
from .routes import Route
from .tenancy import API

if TYPE_CHECKING:
    from .history import Run, Runs
    from .metrics import Metrics

MLFLOW = "/mlflow/{version}<WS>/api/2.0/mlflow"
STATUSES = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED", "NotStarted": "SCHEDULED"}


class MlFlow:
    """The calls of runs: get, log-metric, log-batch, set-tag, update, and a metric's history."""

    def __init__(self, runs: Runs, metrics: Metrics) -> None:
        self.runs = runs
        self.metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", API, f"{MLFLOW}/runs/get", self.get),
            Route("POST", API, f"{MLFLOW}/runs/log-metric", self.log_metric),
            Route("POST", API, f"{MLFLOW}/runs/log-batch", self.log_batch),
            Route("GET", API, f"{MLFLOW}/metrics/get-history", self.history),
        ]

    def get(self, request: Request) -> Response:
        run = self._run(request.query.get("run_id") or request.query.get("run_uuid"))
        rows = self.metrics.rows(run.run_id)
        latest = {row["key"]: row for row in rows}
        info = {
            "run_id": run.run_id,
            "run_uuid": run.run_id,
            "experiment_id": run.document["experimentId"],
            "status": STATUSES.get(run.status, "RUNNING"),
            "lifecycle_stage": "active",
        }
        tags = [{"key": key, "value": value} for key, value in run.document["tags"].items()]
        return answer({"run": {"info": info, "data": {"metrics": list(latest.values()), "tags": tags}}})

    def log_metric(self, request: Request) -> Response:
        sent = request.json()
        self._add(self._run(sent.get("run_id") or sent.get("run_uuid")), [sent])
        return answer({})

    def log_batch(self, request: Request) -> Response:
        sent = request.json()
        run = self._run(sent.get("run_id"))
        self._add(run, sent.get("metrics") or [])
        with self.runs.changed:
            run.document["tags"] |= {tag["key"]: tag["value"] for tag in sent.get("tags") or []}
        return answer({})

    def history(self, request: Request) -> Response:
        run = self._run(request.query.get("run_id"))
        wanted = request.query.get("metric_key")
        return answer({"metrics": [row for row in self.metrics.rows(run.run_id) if row["key"] == wanted]})

    def _run(self, run_id: str | None) -> Run:
        if not run_id or run_id not in self.runs:
            raise Refusal(404, "UserError", f"Run {run_id} was not found")
        return self.runs[run_id]

    def _add(self, run: Run, rows: list[Json]) -> None:
        for row in rows:
            missing = [name for name in ("key", "value", "timestamp") if row.get(name) is None]
            if missing:
                raise Refusal(400, "UserError", f"Missing value for required parameter '{missing[0]}'.")
            self.metrics.add(run.run_id, _metric(run, row))


def _metric(run: Run, row: Json) -> Json:
    """Return a row in the form in which SDK v1 sends metrics."""
    time = dt.datetime.fromtimestamp(row["timestamp"] / 1000, dt.UTC).isoformat()
    value = {"metricId": str(uuid.uuid4()), "createdUtc": time, "step": int(row.get("step") or 0)}
    return {
        "dataContainerId": run.container,
        "name": row["key"],
        "columns": {row["key"]: "Double"},
        "namespace": "",
        "value": [{**value, "data": {row["key"]: float(row["value"])}}],
    }
