"""Jobs: submitted with PUT, read, listed and cancelled. A job is a run; `job.py` executes it."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import yaml

from . import rules
from . import v2_arm as arm
from .messages import Json, Request, Response, answer
from .refusals import now
from .tenancy import API, LOCATION, MANAGEMENT

if TYPE_CHECKING:
    from .handlers import Handlers
    from .history import Run
    from .routes import Route
    from .v2_assets import Assets

JOBS = "<WS>/jobs"
RESULT = "/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}"
RESULT += "/mfeOperationResults/{operation}"
FILLED_IN = {
    "instanceCount": 1,
    "instanceType": None,
    "properties": None,
    "shmSize": "2g",
    "dockerArgs": None,
}
MODES = {"input": "ReadOnlyMount", "output": "ReadWriteMount"}


class ArmJobs:
    """Jobs in Resource Manager's shape. The job's definition is kept in its run."""

    def __init__(self, handlers: Handlers, assets: Assets, start: Callable[[Run], None]) -> None:
        self.tenancy = handlers.tenancy
        self.runs = handlers.runs
        self.clusters = handlers.clusters
        self.assets = assets
        self._start = start
        self._submitting = threading.Lock()

    def routes(self) -> list[Route]:
        one = f"{JOBS}/{{job}}"
        return [
            arm.route("GET", JOBS, self.list),
            arm.route("GET", one, self.get),
            arm.route("PUT", one, self.put),
            arm.route("POST", f"{one}/cancel", self.cancel),
            arm.route("GET", RESULT, self.cancelled),
        ]

    def put(self, request: Request) -> Response:
        """Start a job. A second PUT of the same job updates its tags and starts nothing."""
        name, sent = request.names["job"], request.json()["properties"]
        rules.check_run_id(name)
        with self._submitting:
            if name in self.runs and self.runs[name].definition is not None:
                return arm.created(request, self._update(self.runs[name], sent))
            cluster = self._check(sent)
            properties = _filled_in(name, sent)
            run = self.runs.create(
                name,
                sent.get("experimentName") or "Default",
                target=cluster,
                displayName=sent.get("displayName") or f"loopback_{secrets.token_hex(4)}",
                description=sent.get("description"),
                tags=sent.get("tags") or {},
                properties={**_added(cluster, sent), **(sent.get("properties") or {})},
                runType="azureml.scriptrun",
            )
            run.definition = self._definition(cluster, properties)
            self.runs.advance(run, "Starting")
            document = self._document(run)
            self._start(run)
        return arm.created(request, document)

    def get(self, request: Request) -> Response:
        with self.runs.changed:
            document = self._document(self._find(request.names["job"]))
        properties = document["properties"]
        properties["environmentId"] = self.assets.full_id(properties["environmentId"])
        return answer(document)

    def list(self, request: Request) -> Response:
        """Return the jobs of this kind, newest first; `tag` is `name` or `name=value`."""
        name, equals, value = (request.query.get("tag") or "").partition("=")
        with self.runs.changed:
            jobs = [run for run in reversed(self.runs.all()) if "arm" in (run.definition or {})]
            tags = [(run, run.document["tags"]) for run in jobs]
            shown = [r for r, t in tags if not name or (name in t and (not equals or t[name] == value))]
            return answer({"value": [self._document(run) for run in shown]})

    def cancel(self, request: Request) -> Response:
        run = self._find(request.names["job"])
        self.runs.cancel(run.run_id)
        return self._pending(request, f"jc:{self.tenancy.workspace_id}:{run.run_id}", None)

    def cancelled(self, request: Request) -> Response:
        """Return 202 until the job has ended, then 200 without a body."""
        operation = request.names["operation"]
        run = self._find(operation.rpartition(":")[2])
        return answer() if run.is_over else self._pending(request, operation, {})

    def _pending(self, request: Request, operation: str, body: Json | None) -> Response:
        path = RESULT.format(subscription=self.tenancy.subscription, location=LOCATION, operation=operation)
        url = f"https://{MANAGEMENT}{path}?api-version={request.query.get('api-version')}"
        kind = ("Content-Type", "application/json; charset=utf-8")
        headers = (kind, ("Location", url), ("x-ms-async-operation-timeout", "PT1H"))
        return Response(202, b"null" if body is None else b"{}", headers)

    def _check(self, sent: Json) -> str:
        """Return the name of the job's cluster.

        Raises:
            Inner: the cluster, the environment or the code doesn't exist, or the job isn't a command.
        """
        if sent.get("jobType") != "Command":
            raise arm.Inner(400, f"JobType {sent.get('jobType')} is not supported.", "NotSupported")
        cluster = (sent.get("computeId") or "").rpartition("/")[2]
        if cluster not in self.clusters:
            raise arm.Inner(404, f"Compute {cluster} not found.", "NotFoundError")
        if self.clusters[cluster].state != "Succeeded":
            text = f"The compute {cluster} is in the state {self.clusters[cluster].state}."
            raise arm.Inner(400, text, "BadArgument")
        nodes = (sent.get("resources") or {}).get("instanceCount") or 1
        most = self.clusters[cluster].max_nodes
        if nodes > most:
            text = f"Requested {nodes} nodes but AzureMLCompute cluster only has {most} maximum nodes."
            raise arm.Inner(400, text, "BadArgument")
        self.clusters.check_quota(self.clusters[cluster], nodes)
        if nodes > 1 and (sent.get("distribution") or {}).get("distributionType") != "PyTorch":
            text = "The loopback service runs PyTorch's jobs on several nodes."
            raise arm.Inner(501, text, "NotSupported")
        for word in ("environmentId", "codeId"):
            if sent.get(word) and self.assets.find(sent[word]) is None:
                raise arm.Inner(404, f"{sent[word]} not found.", "NotFoundError")
        return cluster

    def _definition(self, cluster: str, properties: Json) -> Json:
        """Return what `job.py` needs of a job, beside its own properties."""
        environment = self.assets.find(properties["environmentId"]) or {}
        conda = yaml.safe_load(environment.get("condaFile") or "{}")
        limits = properties.get("limits") or {}
        return {
            "target": cluster,
            "environment": {"python": {"condaDependencies": conda}, "image": environment.get("image")},
            "maxRunDurationSeconds": rules.seconds(limits["timeout"]) if limits.get("timeout") else None,
            "nodeCount": properties["resources"]["instanceCount"],
            "arm": properties,
        }

    def _update(self, run: Run, sent: Json) -> Json:
        with self.runs.changed:
            before = (run.definition or {}).get("arm") or {}
            for word in ("command", "codeId", "computeId", "environmentId"):
                if sent.get(word) != before.get(word):
                    text = f"The property '{word}' of a job cannot be changed."
                    raise arm.Inner(400, text, "Immutable", "JobPropertyImmutable")
            run.document["tags"] = sent.get("tags") or {}
            return self._document(run)

    def _find(self, name: str) -> Run:
        if name not in self.runs or "arm" not in (self.runs[name].definition or {}):
            raise arm.Inner(404, "Job {jobId} not found.", "NotFound", "JobNotFound", jobId=name)
        return self.runs[name]

    def _document(self, run: Run) -> Json:
        have, document = self.tenancy, run.document
        properties = {
            "description": document.get("description"),
            "tags": document["tags"],
            "properties": document["properties"],
            "displayName": document.get("displayName"),
            "status": run.status,
            "experimentName": run.experiment,
            "services": self._services(run.run_id),
            **(run.definition or {})["arm"],
        }
        return {
            "id": f"{have.workspace_path}/jobs/{run.run_id}",
            "name": run.run_id,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "properties": properties,
            "systemData": arm.system_data(document.get("createdUtc") or now(), modified=False),
        }

    def _services(self, name: str) -> Json:
        place = self.tenancy.workspace_path
        pages = {
            "Tracking": f"azureml://{API}/mlflow/v1.0{place}?",
            "Studio": f"https://ml.azure.com/runs/{name}?wsid={place}",
        }
        empty = dict.fromkeys(("status", "errorMessage", "properties", "nodes"))
        return {
            kind: {"jobServiceType": kind, "port": None, "endpoint": url, **empty}
            for kind, url in pages.items()
        }


def define(run: Run, cluster_id: str) -> None:
    """Let Resource Manager know a run as a job, though no client has submitted it."""
    sent = {"computeId": cluster_id, "command": "true", "environmentId": "azureml:an-environment:1"}
    run.document["displayName"] = run.run_id
    run.definition = {"arm": _filled_in(run.run_id, sent)}


def _added(cluster: str, sent: Json) -> dict[str, str]:
    """Return the properties that the service adds to a job."""
    target = {"_azureml.ComputeTargetType": "amlctrain", "_azureml.ClusterName": cluster}
    snapshot = {"ContentSnapshotId": str(uuid.uuid4())} if sent.get("codeId") else {}
    return {**target, **snapshot}


def _filled_in(name: str, sent: Json) -> Json:
    """Return a job's own properties as the service keeps them: with its defaults and its own output."""
    store = {"jobOutputType": "uri_folder"}
    store["uri"] = f"azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.{name}"
    outputs = {key: _output(value) for key, value in (sent.get("outputs") or {}).items()}
    inputs = {
        key: {"description": None, "mode": MODES["input"], **value} if "uri" in value else dict(value)
        for key, value in (sent.get("inputs") or {}).items()
    }
    resources = {key: value for key, value in (sent.get("resources") or {}).items() if value is not None}
    return {
        "computeId": sent["computeId"],
        "isArchived": False,
        "identity": sent.get("identity"),
        "componentId": None,
        "jobType": "Command",
        "resources": {**FILLED_IN, **resources},
        "codeId": sent.get("codeId"),
        "command": sent["command"],
        "environmentId": sent["environmentId"],
        "inputs": inputs,
        "outputs": {**outputs, "default": _output(store)},
        "distribution": sent.get("distribution"),
        "limits": sent.get("limits"),
        "environmentVariables": sent.get("environmentVariables") or {},
        "parameters": {},
        "autologgerSettings": None,
        "queueSettings": {"jobTier": "Standard", "priority": None},
        "notificationSetting": None,
        "secretsConfiguration": None,
    }


def _output(sent: Json) -> Json:
    empty = dict.fromkeys(("description", "uri", "assetName", "assetVersion"))
    return {**empty, "mode": MODES["output"], **sent}
