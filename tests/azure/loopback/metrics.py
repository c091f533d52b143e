"""Metrics of runs: clients send batches and get lists of names and full series."""

from __future__ import annotations

import datetime as dt
import threading

from . import rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal, data_plane_error
from .routes import Route
from .tenancy import API

METRIC = "/metric/v2.0<WS>/runs/{run}"


class Metrics:
    """Series by run and name; rows keep the order in which they arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[str, dict[str, Json]] = {}

    def routes(self) -> list[Route]:
        return [
            Route("POST", API, f"{METRIC}/batch", self.batch),
            Route("POST", API, f"{METRIC}/list", self.names),
            Route("POST", API, f"{METRIC}/full", self.full),
        ]

    def add(self, run_id: str, metric: Json) -> None:
        """Append a metric's rows to its series."""
        with self._lock:
            series = self._series.setdefault(run_id, {}).setdefault(metric["name"], {**metric, "value": []})
            series["value"] += metric.get("value") or []

    def rows(self, run_id: str) -> list[Json]:
        """Return all rows of a run's metrics, as MLflow shows them: key, value, step and timestamp."""
        with self._lock:
            return [
                {"key": key, "value": value, "step": row.get("step") or 0, "timestamp": _milliseconds(row)}
                for series in self._series.get(run_id, {}).values()
                for row in series["value"]
                for key, value in row["data"].items()
            ]

    def batch(self, request: Request) -> Response:
        sent = request.json()["values"]
        limits = rules.facts()["limits"]
        if sum(len(metric.get("value") or []) for metric in sent) > limits["metric_rows_per_batch_max"]:
            raise Refusal(400, "ValidationError", "A batch has too many rows.")
        errors = []
        with self._lock:
            run = self._series.setdefault(request.names["run"], {})
            for metric in sent:
                name = metric["name"]
                if name not in run and len(run) >= limits["metric_names_per_run_max"]:
                    too_many = Refusal(400, "UserError", "The run has too many metrics.")
                    errors.append({"metric": metric, "errorResponse": data_plane_error(too_many, "metric")})
                    continue
                series = run.setdefault(name, {**metric, "value": []})
                series["value"] += metric.get("value") or []
        return answer({"errors": errors})

    def names(self, request: Request) -> Response:
        with self._lock:
            rows = [
                {
                    "metricKey": {
                        "namespace": series.get("namespace") or "",
                        "name": name,
                        "labels": None,
                        "columnNames": list(series.get("columns") or {}),
                    },
                    "columns": series.get("columns"),
                    "properties": series.get("properties"),
                }
                for name, series in self._series.get(request.names["run"], {}).items()
            ]
        return answer({"value": rows, "continuationToken": None, "nextLink": None})

    def full(self, request: Request) -> Response:
        name = request.json()["metricName"]
        with self._lock:
            series = self._series.get(request.names["run"], {}).get(name)
            if series is None:
                raise Refusal(404, "UserError", f"The run has no metric {name}.")
            return answer({**series, "continuationToken": None, "nextLink": None})


def _milliseconds(row: Json) -> int:
    return round(dt.datetime.fromisoformat(row["createdUtc"]).timestamp() * 1000)
