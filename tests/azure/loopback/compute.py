"""Clusters: created, shown and deleted as the real service was recorded; they give nodes to jobs.

Tests set in `Clusters.behaviour` how a cluster misbehaves: slow, full, preempted.
"""

from __future__ import annotations

import dataclasses
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
BATCH_AI = "/providers/Microsoft.BatchAI/workspaces/loopback/clusters"


@dataclasses.dataclass
class Behaviour:
    """How clusters behave.

    A slow operation takes a number of polls, not seconds, so that no test depends on a clock. A new cluster
    counts as Resizing, with no nodes, in its first `polls_to_settle` answers after it was created. A full
    cluster allocates no node, and reports `allocation_error` if that is set. `quota_cores` is the
    subscription's quota. A low-priority node is preempted at the first line of its job's log that matches the
    regular expression `preempt_at`, `preemptions` times in all; the job then fails, or `restarts`, or is
    cancelled if the service `cancels`. An image is not built while `building`. The node's logs have the names
    of the common runtime or of the `old_runtime`.
    """

    polls_to_create: int = 1
    polls_to_settle: int = 1
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
    polls_to_settle: int = 0

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
    def vm_size(self) -> str:
        """The size of the nodes, in capitals, as the service returns it."""
        return str(self.settings.get("vmSize") or rules.UNSPECIFIED_SIZE).upper()

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

    def has_nodes_for(self, cluster: Cluster, run_id: str, count: int) -> bool:
        """Return whether a waiting run gets its nodes now, first come first served; needs `changed`."""
        is_next = cluster.waiting[:1] == [run_id]
        nodes = len(cluster.busy) + count
        is_free = nodes <= cluster.max_nodes and not self.exceeds_quota(cluster, nodes)
        return cluster.state == "Succeeded" and not self.behaviour.full and is_next and is_free

    def exceeds_quota(self, cluster: Cluster, nodes: int) -> bool:
        """Return whether this many nodes have more cores than the subscription may use."""
        quota = self.behaviour.quota_cores
        return quota is not None and rules.VM_CORES.get(cluster.vm_size, 0) * nodes > quota

    def check_quota(self, cluster: Cluster, nodes: int) -> None:
        """Refuse a run whose nodes have more cores than the quota, whatever the cluster's settings say."""
        if self.exceeds_quota(cluster, nodes):
            text = (
                "Job submission to AzureML Compute encountered an Exception with status code"
                " JobNodeCountExceedsCoreQuota, The specified subscription has a"
                f" {cluster.vm_size} vCPU quota of {self.behaviour.quota_cores} and is less than the"
                f" requested job node count of {nodes} which maps to"
                f" {rules.VM_CORES[cluster.vm_size] * nodes} vCPUs."
            )
            raise Refusal(400, "JobNodeCountExceedsCoreQuota", text)

    def release(self, cluster: Cluster, run_id: str) -> None:
        """Make a job's nodes idle, until their idle time is over."""
        with self.changed:
            while run_id in cluster.busy:
                cluster.busy.remove(run_id)
                scale = cluster.settings["scaleSettings"]
                seconds = rules.seconds(scale.get("nodeIdleTimeBeforeScaleDown") or "PT1800S")
                cluster.idle_until.append(time.time() + seconds)
            self.changed.notify_all()

    # -- requests --------------------------------------------------------------------------------------

    def get(self, request: Request) -> Response:
        with self.changed:
            cluster = self._existing(request)
            document = answer(self._document(cluster))
            if cluster.state == "Succeeded":
                cluster.polls_to_settle -= 1
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
            cluster.polls_to_settle = self.behaviour.polls_to_settle
            self._clusters[name.lower()] = cluster
            error = self._provisioning_error(cluster)
            operation = Operation(cluster, "Failed" if error else "Succeeded", 0, error)
            operation.polls_left = self.behaviour.polls_to_create
            document = self._document(cluster)
            _shorten(document, is_new=before is None)
            return self._accepted(operation, request, 201, document)

    def delete(self, request: Request) -> Response:
        with self.changed:
            cluster = self._clusters.get(request.names["compute"].lower())
            if cluster is None:
                return answer(status=204)
            cluster.state, cluster.changed = "Deleting", now()
            self.changed.notify_all()
            operation = Operation(cluster, "Succeeded", self.behaviour.polls_to_delete)
            return self._accepted(operation, request, 202, None)

    def operation(self, request: Request) -> Response:
        with self.changed:
            operation = self._operations.get(request.names["operation"])
            if operation is None:
                raise Refusal(404, "NotFound", "There is no such operation.")
            self._poll(operation)
            document: Json = {"status": operation.status}
            if operation.status == "Succeeded":
                document["percentComplete"] = 100.0
            if operation.status == "Failed":
                document["error"] = operation.error or {}
            return answer(document)

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

    def _accepted(self, operation: Operation, request: Request, status: int, body: Json | None) -> Response:
        """Return where to poll the operation; the service sends neither Location nor Retry-After."""
        name = str(uuid.uuid4())
        self._operations[name] = operation
        query = f"api-version={request.query.get('api-version', '')}&service=new"
        url = f"https://{MANAGEMENT}{self._operation_path(name)}?{query}"
        return answer(body, status, Azure_AsyncOperation=url)

    def _operation_path(self, name: str) -> str:
        return OPERATION.format(subscription=self.tenancy.subscription, location=LOCATION, operation=name)

    def _provisioning_error(self, cluster: Cluster) -> Json | None:
        """Return why the cluster cannot be created; of its nodes, only one is checked against the quota."""
        size = cluster.vm_size
        if size not in rules.VM_CORES:
            listed = {"code": "SupportedVMSizes", "message": ", ".join(rules.VM_CORES), "details": []}
            text = f"Specified VM size {size} is not supported in {LOCATION}."
            return {"code": "InvalidPropertyValue", "message": text, "details": [listed]}
        if self.exceeds_quota(cluster, 1):
            text = (
                f"The specified subscription has a total vCPU quota of {self.behaviour.quota_cores} and"
                " cannot accomodate for at least 1 requested managed compute node which maps to"
                f" {rules.VM_CORES[size]} vCPUs."
            )
            return {"code": "BadRequest", "message": text, "details": []}
        return None

    def _document(self, cluster: Cluster) -> Json:
        properties = {
            "description": None,
            "resourceId": None,
            "computeLocation": LOCATION,
            "isAttachedCompute": False,
            "disableLocalAuth": False,
            **cluster.body["properties"],
            "provisioningState": cluster.state,
            "provisioningErrors": cluster.errors or None,
            "createdOn": cluster.created,
            "modifiedOn": cluster.changed,
        }
        if properties["computeType"] == "AmlCompute":
            properties["properties"] = {**_settings(cluster), **self._allocation(cluster)}
        return {
            "id": f"{self.tenancy.workspace_path}/computes/{cluster.name}",
            "name": cluster.name,
            "type": "Microsoft.MachineLearningServices/workspaces/computes",
            "location": LOCATION,
            "tags": cluster.body.get("tags") or {},
            "properties": properties,
        }

    def _allocation(self, cluster: Cluster) -> Json:
        """Return the cluster's nodes; nothing is known of them while it is created or changed."""
        if cluster.state == "Creating":
            unknown = ("allocationState", "currentNodeCount", "targetNodeCount", "nodeStateCounts", "errors")
            return dict.fromkeys(unknown)
        running, waiting = len(cluster.busy), len(cluster.waiting)
        is_settled = cluster.polls_to_settle <= 0
        idle = cluster.idle_nodes() if cluster.state == "Succeeded" and is_settled else 0
        counts = {"idle": idle, "running": running, "preempted": cluster.preempted}
        counts |= {"preparing": 0, "unusable": 0, "leaving": 0}
        is_steady = cluster.state == "Succeeded" and is_settled and not waiting
        return {
            "allocationState": "Steady" if is_steady else "Resizing",
            "allocationStateTransitionTime": f"{cluster.changed[:23]}+00:00",
            "errors": self._errors(cluster) or None,
            "currentNodeCount": running + idle,
            "targetNodeCount": min(running + max(idle, waiting), cluster.max_nodes),
            "nodeStateCounts": {f"{state}NodeCount": count for state, count in counts.items()},
        }

    def _errors(self, cluster: Cluster) -> list[Json]:
        """Return why no node is allocated, and the warnings of a cluster that works."""
        errors = []
        if self.behaviour.full and self.behaviour.allocation_error and cluster.waiting:
            errors.append({"error": {"code": "AllocationFailed", "message": self.behaviour.allocation_error}})
        if rules.RETIRING.fullmatch(cluster.vm_size):
            text = f"The specified VMSize {cluster.vm_size} is being deprecated."
            errors.append({"error": {"code": "ClusterHasWarnings", "message": text}})
        return errors


def _settings(cluster: Cluster) -> Json:
    """Return the settings as the service fills them in; it never returns a password."""
    settings = {
        "osType": "Linux",
        "remoteLoginPortPublicAccess": "NotSpecified",
        "virtualMachineImage": None,
        "isolatedNetwork": False,
        "enableNodePublicIp": True,
        "subnet": None,
        "propertyBag": {},
        **cluster.settings,
        "vmSize": cluster.vm_size,
        "vmPriority": "LowPriority" if cluster.is_low_priority else "Dedicated",
    }
    if account := settings.get("userAccountCredentials"):
        settings["userAccountCredentials"] = {**account, "adminUserPassword": None}
    return settings


def _shorten(document: Json, *, is_new: bool) -> None:
    """Remove what the answer to a PUT lacks."""
    properties = document["properties"]
    for name in ("propertyBag", "userAccountCredentials"):
        properties["properties"].pop(name, None)
    if is_new:
        document["tags"] = None
        del properties["computeLocation"]
    else:
        properties["resourceId"] = (
            f"{document['id'].partition('/providers/')[0]}{BATCH_AI}/{document['name']}"
        )
