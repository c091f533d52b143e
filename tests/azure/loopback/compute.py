"""Clusters: created, shown and deleted as Resource Manager does; they give nodes to jobs.

Tests set in `Clusters.behaviour` how a cluster misbehaves: slow, full, preempted.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
import uuid
from typing import Any

from . import rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal, now
from .routes import Route
from .tenancy import API, LOCATION, MANAGEMENT, Tenancy

COMPUTES = "<WS>/computes"
OPERATION = "/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}"
OPERATION += "/computeOperationsStatus/{operation}"


@dataclasses.dataclass
class Behaviour:
    """How clusters behave.

    A slow operation takes a number of polls, not seconds, so that no test depends on a clock. A full cluster
    allocates no node, and reports `allocation_error` if that is set. A low-priority node is preempted at the
    first line of its job's log that matches the regular expression `preempt_at`, `preemptions` times in all;
    the job then fails, or `restarts`, or is cancelled if the service `cancels`. An image is not built while
    `building`. The node's logs have the names of the common runtime or of the `old_runtime`.
    """

    polls_to_create: int = 1
    polls_to_delete: int = 1
    never_created: bool = False
    full: bool = False
    allocation_error: str | None = None
    quota_cores: int | None = None
    preempt_at: str | None = None
    preemptions: int = 1
    restarts: bool = False
    cancels: bool = False
    building: bool = False
    old_runtime: bool = False


@dataclasses.dataclass
class Cluster:
    """One compute. `busy` lists the runs that hold a node, `waiting` those that wait for one, in order."""

    name: str
    body: Json
    state: str = "Creating"
    errors: list[Json] = dataclasses.field(default_factory=list)
    busy: list[str] = dataclasses.field(default_factory=list)
    waiting: list[str] = dataclasses.field(default_factory=list)
    idle_until: list[float] = dataclasses.field(default_factory=list)
    created: str = dataclasses.field(default_factory=now)
    changed: str = dataclasses.field(default_factory=now)
    preempted: int = 0

    @property
    def settings(self) -> Json:
        settings: Json = self.body["properties"]["properties"]
        return settings

    @property
    def max_nodes(self) -> int:
        return int(self.settings["scaleSettings"]["maxNodeCount"])

    @property
    def min_nodes(self) -> int:
        return int(self.settings["scaleSettings"].get("minNodeCount") or 0)

    @property
    def is_low_priority(self) -> bool:
        return str(self.settings.get("vmPriority", "")).lower() == "lowpriority"

    def idle_nodes(self) -> int:
        """Count the nodes without a job: those that the minimum keeps, and those not yet timed out."""
        self.idle_until = [until for until in self.idle_until if until > time.time()]
        return max(len(self.idle_until), self.min_nodes - len(self.busy), 0)


@dataclasses.dataclass
class Operation:
    """A long-running operation; it ends at the poll at which `polls_left` reaches zero."""

    cluster: Cluster
    ends_as: str
    polls_left: int
    error: Json | None = None
    status: str = "InProgress"
    started: str = dataclasses.field(default_factory=now)


class Clusters:
    """All computes of the workspace."""

    def __init__(self, tenancy: Tenancy, changed: threading.Condition) -> None:
        self.tenancy = tenancy
        self.behaviour = Behaviour()
        self.changed = changed
        self._clusters: dict[str, Cluster] = {}
        self._operations: dict[str, Operation] = {}

    def routes(self) -> list[Route]:
        return [
            Route("GET", API, f"/rp/workspaces{COMPUTES}/{{compute}}", self.get),
            Route("GET", MANAGEMENT, f"{COMPUTES}/{{compute}}", self.get),
            Route("PUT", MANAGEMENT, f"{COMPUTES}/{{compute}}", self.put),
            Route("DELETE", MANAGEMENT, f"{COMPUTES}/{{compute}}", self.delete),
            Route("GET", MANAGEMENT, OPERATION, self.operation),
        ]

    # -- called by other handlers and by tests ---------------------------------------------------------

    def behave(self, **changes: Any) -> None:
        """Change how clusters behave, from now on."""
        with self.changed:
            self.behaviour = dataclasses.replace(self.behaviour, **changes)
            self.changed.notify_all()

    def __getitem__(self, name: str) -> Cluster:
        return self._clusters[name.lower()]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._clusters

    def add(
        self, name: str, *, compute_type: str = "AmlCompute", state: str = "Succeeded", **settings: object
    ) -> Cluster:
        """Add a compute, as if another client had created it."""
        scale = {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1800S"}
        defaults = {"vmSize": "Standard_D2_v2", "vmPriority": "Dedicated", "scaleSettings": scale}
        body = {"properties": {"computeType": compute_type, "properties": {**defaults, **settings}}}
        with self.changed:
            self._clusters[name.lower()] = cluster = Cluster(name, body, state)
            self.changed.notify_all()
        return cluster

    def operations(self) -> list[str]:
        """Return the paths of all long-running operations, oldest first."""
        with self.changed:
            return [self._operation_path(name) for name in self._operations]

    def has_node_for(self, cluster: Cluster, run_id: str) -> bool:
        """Return whether a waiting run gets a node now, first come first served; needs the lock `changed`."""
        is_next = cluster.waiting[:1] == [run_id]
        is_free = cluster.max_nodes > len(cluster.busy)
        return cluster.state == "Succeeded" and not self.behaviour.full and is_next and is_free

    def release(self, cluster: Cluster, run_id: str) -> None:
        """Make a job's node idle, until its idle time is over."""
        with self.changed:
            if run_id in cluster.busy:
                cluster.busy.remove(run_id)
                scale = cluster.settings["scaleSettings"]
                seconds = _seconds(scale.get("nodeIdleTimeBeforeScaleDown") or "PT1800S")
                cluster.idle_until.append(time.time() + seconds)
            self.changed.notify_all()

    # -- requests --------------------------------------------------------------------------------------

    def get(self, request: Request) -> Response:
        with self.changed:
            cluster = self._existing(request)
            document = answer(self._document(cluster))
            for operation in self._operations.values():
                if operation.cluster is cluster:
                    self._poll(operation)
            return document

    def put(self, request: Request) -> Response:
        name, body = request.names["compute"], request.json()
        rules.check_compute_name(name)
        rules.check_cluster(body)
        with self.changed:
            before = self._clusters.get(name.lower())
            if before is not None and before.state == "Failed":
                text = f"Compute {name} is in the state Failed; delete it before it is created again."
                raise Refusal(400, "BadArgument", text)
            cluster = before or Cluster(name, body)
            cluster.body, cluster.state, cluster.changed = body, "Creating", now()
            self._clusters[name.lower()] = cluster
            error = self._provisioning_error(cluster)
            operation = Operation(cluster, "Failed" if error else "Succeeded", 0, error)
            operation.polls_left = self.behaviour.polls_to_create
            return self._accepted(operation, 200 if before else 201, self._document(cluster))

    def delete(self, request: Request) -> Response:
        with self.changed:
            cluster = self._clusters.get(request.names["compute"].lower())
            if cluster is None:
                return answer(status=204)
            cluster.state, cluster.changed = "Deleting", now()
            self.changed.notify_all()
            operation = Operation(cluster, "Succeeded", self.behaviour.polls_to_delete)
            return self._accepted(operation, 202, None)

    def operation(self, request: Request) -> Response:
        with self.changed:
            operation = self._operations.get(request.names["operation"])
            if operation is None:
                raise Refusal(404, "NotFound", "There is no such operation.")
            self._poll(operation)
            document: Json = {"id": request.path, "name": request.names["operation"]}
            document |= {"status": operation.status, "startTime": operation.started}
            if operation.status == "Failed":
                document["error"] = operation.error or {}
            return answer(document, Retry_After="1")

    def _existing(self, request: Request) -> Cluster:
        cluster = self._clusters.get(request.names["compute"].lower())
        if cluster is None:
            text = f"Compute {request.names['compute']} not found in workspace {self.tenancy.workspace}"
            raise Refusal(404, "ComputeNotFound", text)
        return cluster

    def _poll(self, operation: Operation) -> None:
        operation.polls_left -= 1
        cluster = operation.cluster
        is_stuck = cluster.state == "Creating" and self.behaviour.never_created
        if operation.status != "InProgress" or operation.polls_left > 0 or is_stuck:
            return
        operation.status = operation.ends_as
        if cluster.state == "Deleting":
            self._clusters.pop(cluster.name.lower(), None)
        else:
            cluster.state = operation.ends_as
            cluster.errors = [{"error": operation.error}] if operation.error else []
        self.changed.notify_all()

    def _accepted(self, operation: Operation, status: int, body: Json | None) -> Response:
        name = str(uuid.uuid4())
        self._operations[name] = operation
        path = self._operation_path(name)
        url = f"https://{MANAGEMENT}{path}?api-version=2020-02-02"
        headers = {"Azure_AsyncOperation": url, "Retry_After": "1"}
        if status == 202:
            headers["Location"] = url
        return answer(body, status, **headers)

    def _operation_path(self, name: str) -> str:
        return OPERATION.format(subscription=self.tenancy.subscription, location=LOCATION, operation=name)

    def _provisioning_error(self, cluster: Cluster) -> Json | None:
        size = cluster.settings.get("vmSize") or "Standard_NC6"
        known = rules.vm_size(size)
        if known is None:
            listed = {"code": "SupportedVMSizes", "message": ", ".join(rules.VM_CORES), "details": []}
            text = f"Specified VM size {size} is not supported in {LOCATION}."
            return {"code": "InvalidPropertyValue", "message": text, "details": [listed]}
        cores = rules.VM_CORES[known] * cluster.max_nodes
        if self.behaviour.quota_cores is not None and cores > self.behaviour.quota_cores:
            kind = "LowPriority" if cluster.is_low_priority else "Dedicated"
            text = (
                f"Operation results in exceeding quota limits of Total Cluster {kind} Regional vCPUs."
                f" Maximum allowed: {self.behaviour.quota_cores}, Additional Requested: {cores}."
            )
            return {"code": "ClusterCoreQuotaReached", "message": text, "details": []}
        return None

    def _document(self, cluster: Cluster) -> Json:
        properties = {
            "description": None,
            "resourceId": None,
            "computeLocation": LOCATION,
            "isAttachedCompute": False,
            **cluster.body["properties"],
            "provisioningState": cluster.state,
            "provisioningErrors": cluster.errors or None,
            "createdOn": cluster.created,
            "modifiedOn": cluster.changed,
        }
        if properties["computeType"] == "AmlCompute":
            properties["properties"] = {"subnet": None, **cluster.settings, **self._allocation(cluster)}
        return {
            "id": f"{self.tenancy.workspace_path}/computes/{cluster.name}",
            "name": cluster.name,
            "type": "Microsoft.MachineLearningServices/workspaces/computes",
            "location": LOCATION,
            "tags": cluster.body.get("tags"),
            "properties": properties,
        }

    def _allocation(self, cluster: Cluster) -> Json:
        running = len(cluster.busy)
        errors = []
        if self.behaviour.full and self.behaviour.allocation_error and cluster.waiting:
            errors.append({"error": {"code": "AllocationFailed", "message": self.behaviour.allocation_error}})
        idle = cluster.idle_nodes() if cluster.state == "Succeeded" else 0
        is_steady = cluster.state == "Succeeded" and not cluster.waiting
        counts = {"idle": idle, "running": running, "preempted": cluster.preempted}
        counts |= {"preparing": 0, "unusable": 0, "leaving": 0}
        size = cluster.settings.get("vmSize") or "Standard_NC6"
        return {
            "vmSize": rules.vm_size(size) or size,
            "vmPriority": "LowPriority" if cluster.is_low_priority else "Dedicated",
            "allocationState": "Steady" if is_steady else "Resizing",
            "allocationStateTransitionTime": cluster.changed,
            "errors": errors,
            "currentNodeCount": running + idle,
            "targetNodeCount": min(running + max(idle, len(cluster.waiting)), cluster.max_nodes),
            "nodeStateCounts": {f"{state}NodeCount": count for state, count in counts.items()},
        }


def _seconds(duration: str) -> float:
    """Return an ISO 8601 duration of days, hours, minutes and seconds in seconds."""
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", duration)
    if found is None:
        return 1800.0
    return sum(float(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
