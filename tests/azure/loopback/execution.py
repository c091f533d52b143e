"""Submitting and cancelling runs: checks a definition before the run exists, then starts the run.

`job.py` executes it (image, queue, process, end).
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import definitions, rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal, run_not_found
from .routes import Route
from .tenancy import API

if TYPE_CHECKING:
    from .handlers import Handlers
    from .history import Run

EXECUTION = "/execution/v1.0<WS>/experiments/{experiment}"


class Execution:
    """Accepts definitions of runs, and starts each with `start`."""

    def __init__(self, handlers: Handlers, start: Callable[[Run], None]) -> None:
        self.tenancy = handlers.tenancy
        self.runs = handlers.runs
        self.clusters = handlers.clusters
        self.snapshots = handlers.snapshots
        self._start = start
        self._submitting = threading.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("POST", API, f"{EXECUTION}/snapshotrun", self.submit),
            Route("POST", API, f"{EXECUTION}/runId/{{run}}/cancel", self.cancel),
        ]

    def submit(self, request: Request) -> Response:
        """Start a run; a second request with the same id changes nothing and gets the same answer."""
        sent = {name.lower(): value for name, value in request.json().items()}
        run_id, experiment = request.query.get("runId") or "", request.names["experiment"]
        rules.check_run_id(run_id)
        with self._submitting:
            if run_id in self.runs and self.runs[run_id].definition is not None:
                return answer({"runId": run_id})
            configuration = sent.get("configuration") or {}
            self._check(configuration, sent.get("snapshotid"))
            path = EXECUTION.replace("<WS>", self.tenancy.workspace_path)
            path = path.format(experiment=urllib.parse.quote(experiment))
            url = f"https://{API}{path}/runId/{urllib.parse.quote(run_id)}"
            run = self.runs.create(
                run_id,
                experiment,
                target=configuration["target"],
                scriptName=configuration.get("script"),
                runType="azureml.scriptrun",
                runDefinition=definitions.shown(configuration),
                cancelUri=f"{url}/cancel",
                diagnosticsUri=f"{url}/diagnostics",
            )
            run.document["properties"] |= self._properties(configuration["target"], sent["snapshotid"])
            run.definition = {**configuration, "snapshotId": sent["snapshotid"]}
            self.runs.advance(run, "Starting")
            self._start(run)
        return answer({"runId": run_id})

    def cancel(self, request: Request) -> Response:
        run_id = request.names["run"]
        if run_id not in self.runs:
            raise run_not_found(run_id)
        self.runs.cancel(run_id)
        return answer({"runId": run_id})

    def _properties(self, cluster: str, snapshot: str) -> Json:
        """Return the properties that the service gives a run."""
        target = {"_azureml.ComputeTargetType": "amlcompute", "_azureml.ClusterName": cluster}
        properties = {"ContentSnapshotId": snapshot, **target}
        if self.clusters.behaviour.old_runtime:
            properties["ProcessInfoFile"] = "azureml-logs/process_info.json"
            properties["ProcessStatusFile"] = "azureml-logs/process_status.json"
        return properties

    def _check(self, configuration: Json, snapshot: str | None) -> None:
        target = configuration.get("target") or ""
        if target not in self.clusters:
            raise Refusal(400, "UserError", "{argumentName} is invalid")  # as recorded: nobody fills it in
        cluster = self.clusters[target]
        if cluster.state not in ("Succeeded", "Failed"):  # a run on a failed cluster exists, and fails
            text = f"The compute target '{target}' is in the state {cluster.state}."
            raise Refusal(400, "ComputeTargetNotReady", text)
        if cluster.body["properties"]["computeType"] != "AmlCompute":
            raise Refusal(400, "UserError", f"The compute target '{target}' cannot run this definition.")
        nodes = configuration.get("nodeCount") or 1
        if nodes > cluster.max_nodes:
            text = f"The run asks for {nodes} nodes; '{target}' has at most {cluster.max_nodes}."
            raise Refusal(400, "NodeCountExceedsMaximum", text)
        self.clusters.check_quota(cluster, nodes)
        if nodes > 1 and configuration.get("framework") != "PyTorch":
            raise Refusal(501, "ServiceError", "The loopback service runs PyTorch's jobs on several nodes.")
        if snapshot is None or snapshot not in self.snapshots:
            raise Refusal(400, "UserError", f"The snapshot {snapshot} was not found.")
