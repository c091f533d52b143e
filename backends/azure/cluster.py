"""A cluster as the service describes it.

A cluster is an AmlCompute, the successor of Batch AI: `BatchAiCompute` is no longer in the SDK.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import (
    QUOTA_HINT,
    STILL_WAITING_SECONDS,
    STUDIO,
    call,
    is_about_quota,
)
from mnist_cnn.backends.azure.config import has_gpu, network
from mnist_cnn.backends.azure.outcome import NO_REASON
from mnist_cnn.backends.remote.calls import ATTEMPTS, report, with_retries
from mnist_cnn.backends.remote.failures import NodesRefused
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError
from mnist_cnn.hints import command_line
from mnist_cnn.settings import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnist_cnn.backends.azure.config import AzureConfig

CLUSTER_TYPE = "AmlCompute"
WAIT_SECONDS = 20 * 60
FIRST_POLL_SECONDS, SLOW_POLL_SECONDS = 0.2, 5.0
"""The first and the longest pause between polls.

The pause doubles each time.
"""


STATUS = (
    "currentNodeCount",
    "targetNodeCount",
    "nodeStateCounts",
    "allocationState",
    "allocationStateTransitionTime",
    "errors",
    "scaleSettings",
    "vmPriority",
    "vmSize",
)
"""The members of the service's answer that `Cluster.status` keeps."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A compute target. Unknown values are None.

    `kind` is its type; only a CLUSTER_TYPE is a cluster. `scale` holds the smallest and the largest number of
    nodes, and after how many seconds an idle node is released. `status` is the service's text, to be printed.
    """

    name: str
    kind: str
    state: str
    errors: tuple[str, ...] = ()
    vm_size: str = ""
    priority: str = ""
    scale: tuple[int | None, int | None, int | None] | None = None
    nodes: int | None = None
    subnet: str | None = None
    has_public_ip: bool = True
    status: dict[str, Any] = dataclasses.field(default_factory=dict)

    def count(self, *states: str) -> int:
        """Return how many nodes are in these states.

        States are "idle", "running" or "preempted".
        """
        counts = self.status.get("nodeStateCounts") or {}
        return sum(counts.get(f"{state}NodeCount") or 0 for state in states)


def find(name: str, read: Callable[[], Any]) -> Cluster | None:
    """Return a compute target, or None. Raises ServiceError.

    None means that it doesn't exist. `read` returns its description.
    """
    try:
        body = call(f"find the cluster {name}", read)
    except ServiceError as error:
        if error.is_not_found:
            return None
        raise
    return None if body is None else from_arm(body)


def from_arm(body: dict[str, Any]) -> Cluster:
    """Return a compute target that Azure Resource Manager describes.

    Most members may be null.
    """
    compute = body["properties"]
    nodes = compute.get("properties") or {}
    scale = nodes.get("scaleSettings")
    return Cluster(
        name=body["name"],
        kind=str(compute.get("computeType")),
        state=str(compute.get("provisioningState")),
        errors=tuple(map(error_text, compute.get("provisioningErrors") or ())),
        vm_size=nodes.get("vmSize") or "",
        priority=nodes.get("vmPriority") or "",
        scale=None
        if scale is None
        else (scale.get("minNodeCount"), scale.get("maxNodeCount"), _seconds(scale)),
        nodes=nodes.get("currentNodeCount"),
        subnet=(nodes.get("subnet") or {}).get("id"),
        has_public_ip=nodes.get("enableNodePublicIp") is not False,  # older versions of the API lack it
        status={name: nodes[name] for name in STATUS if name in nodes},
    )


def _seconds(scale: dict[str, Any]) -> int | None:
    import isodate  # both SDKs require it

    written = scale.get("nodeIdleTimeBeforeScaleDown")
    return int(isodate.parse_duration(written).total_seconds()) if written else None


def ensure(
    config: AzureConfig,
    found: Cluster | None,
    request: Callable[[], object],
    find: Callable[[], Cluster | None],
) -> Cluster:
    """Return the cluster that was found, or create it.

    It may not be ready. Raises as `create` and `check_usable` do.
    """
    if found is None:
        return create(config, request, find)
    check_usable(found, config)
    return found


def create(config: AzureConfig, request: Callable[[], object], find: Callable[[], Cluster | None]) -> Cluster:
    """Create the cluster. Raises NodesRefused or ServiceError.

    Looks for it before a second request, which would overwrite it.
    """
    report(f"cluster {config.cluster}: creating it with {config.nodes}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            call(f"create the cluster {config.cluster}", request)
            break
        except ServiceError as error:
            if error.status == 400 and not is_about_quota(error.detail):  # noqa: PLR2004
                hint = "choose other nodes, or another name for the cluster: backend.cluster=NAME"
                raise NodesRefused(error.message, hint) from error
            if not error.is_transient:
                raise
            if (found := find()) is not None:  # the answer was lost
                return found
            if error.is_abandoned or attempt == ATTEMPTS:
                raise
            report(f"{error.message}; retrying in {2**attempt} seconds")
            time.sleep(2**attempt)
    return require_existing(config, find)


def require_existing(config: AzureConfig, find: Callable[[], Cluster | None]) -> Cluster:
    """Return the cluster. Raises BackendError if it is gone."""
    found = with_retries(find)
    if found is None:
        raise BackendError(f"cluster {config.cluster}: the service no longer finds it", "try again")
    return found


def check_usable(cluster: Cluster, config: AzureConfig) -> None:
    """Report how an existing cluster differs from the configuration.

    Doesn't change it. Raises BackendError if the name belongs to something else, its nodes lack a required
    GPU, or it can't have a node for each worker.
    """
    if cluster.kind != CLUSTER_TYPE:
        message = f"{config.cluster} is a {cluster.kind}, not a cluster ({CLUSTER_TYPE})"
        raise BackendError(message, "choose another name with backend.cluster=NAME")
    report(f"cluster {cluster.name}: found")
    for line in differences(cluster, config):
        report(line)
    if config.use_gpu and not has_gpu(cluster.vm_size):
        nodes = f"the nodes of cluster {cluster.name} ({cluster.vm_size})"
        message = f"backend.use_gpu=true, but {nodes} have no GPU"
        raise BackendError(message, "choose a cluster whose nodes have GPUs: backend.cluster=NAME")
    _, most, _ = cluster.scale or (None, None, None)
    if most is not None and config.workers > most:
        message = f"backend.workers={config.workers}, but cluster {cluster.name} has max_nodes={most}"
        raise BackendError(
            message, "raise its maximum in the studio, or choose another: backend.cluster=NAME"
        )


def wait_until_ready(cluster: Cluster, config: AzureConfig, find: Callable[[], Cluster | None]) -> None:
    """Wait until the cluster accepts runs.

    Its nodes start later, when a run needs them.

    Raises:
        BackendError: it has failed, is being deleted, or isn't ready in time.
        NodesRefused: it has failed, and a new one of the configured size would fail too.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    pause, reported, reported_at = FIRST_POLL_SECONDS, "Succeeded", 0.0
    while (state := cluster.state.capitalize()) != "Succeeded":
        left = deadline - time.monotonic()
        if state != reported or time.monotonic() - reported_at > STILL_WAITING_SECONDS:
            report(f"cluster {cluster.name}: {state.lower()}; waiting for up to {left / 60:.0f} minutes")
            reported, reported_at = state, time.monotonic()
        _check_not_ended(cluster, config, state)
        if left < 0:
            message = f"cluster {cluster.name} is still {state.lower()} after {WAIT_SECONDS // 60} minutes"
            raise BackendError(message, f"delete it: {command('delete', config)}")
        time.sleep(pause)
        pause = min(SLOW_POLL_SECONDS, 2 * pause)
        cluster = require_existing(config, find)
    report(f"cluster {cluster.name}: ready")
    for line in _status(cluster):
        report(line)


def _check_not_ended(cluster: Cluster, config: AzureConfig, state: str) -> None:
    if state == "Deleting":
        raise BackendError(f"cluster {cluster.name} is being deleted", "try again when it is gone")
    if state in ("Failed", "Canceled"):
        reason = "; ".join(cluster.errors) or NO_REASON
        is_of_this_size = cluster.vm_size.upper() == config.vm_size.upper()
        is_lasting = state == "Failed" and is_of_this_size and not is_about_quota(reason)
        kind = NodesRefused if is_lasting else BackendError
        hint = f"delete it: {command('delete', config)}"
        if is_about_quota(reason):
            hint = f"{QUOTA_HINT}; then {hint}"
        raise kind(f"cluster {cluster.name} is {state.lower()}: {reason}", hint)


def wait_until_gone(name: str, find: Callable[[], Cluster | None]) -> None:
    """Wait until the service no longer finds the cluster.

    Raises BackendError if that takes too long.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_POLL_SECONDS
    while (found := find()) is not None:
        if time.monotonic() > deadline:
            raise BackendError(f"cluster {name} is still {found.state}", f"see {STUDIO}")
        time.sleep(pause)
        pause = min(SLOW_POLL_SECONDS, 2 * pause)


def delete(
    cluster: Cluster, request: Callable[[], object], find: Callable[[], Cluster | None]
) -> Iterator[str]:
    """Delete the cluster and wait until it is gone.

    Yields lines to print. Raises BackendError.
    """
    if cluster.kind != CLUSTER_TYPE:
        message = f"{cluster.name} is a {cluster.kind}, not a cluster ({CLUSTER_TYPE}); it was not deleted"
        raise BackendError(message, f"see {STUDIO}")
    yield f"cluster {cluster.name}: deleting; waiting for up to {WAIT_SECONDS // 60} minutes"
    request()
    wait_until_gone(cluster.name, find)
    yield f"cluster {cluster.name}: deleted"


def differences(cluster: Cluster, config: AzureConfig) -> Iterator[str]:
    """Yield how the cluster differs from the configuration.

    One line for each setting.
    """
    low, high, idle_seconds = cluster.scale or (None, None, None)
    settings = {
        "vm_size": (cluster.vm_size.upper(), config.vm_size.upper()),
        "priority": (cluster.priority.lower(), config.priority.value),
        "min_nodes": (low, config.min_nodes),
        "max_nodes": (high, config.max_nodes),
        "idle_seconds": (idle_seconds, config.idle_seconds),
        "subnet": ((cluster.subnet or "null").lower(), written(config.subnet).lower()),
        "public_ip": (written(cluster.has_public_ip), written(config.public_ip)),
    }
    for name, (found, wanted) in settings.items():
        if found != wanted:
            has = f"cluster {cluster.name} has {name}={_known(found)}"
            yield f"{has}, not backend.{name}={wanted}; it is not changed"


def command(action: str, config: AzureConfig) -> str:
    """Return a command that shows or deletes the cluster."""
    sdk = [f"backend.sdk={config.sdk}"] if config.sdk else []
    workspace = [f"backend.workspace={config.workspace}"] if config.workspace else []
    cluster = f"backend.cluster={config.cluster}"
    return command_line("cluster", action, "backend=azure", *sdk, cluster, *workspace)


def show(cluster: Cluster, config: AzureConfig) -> Iterator[str]:
    """Yield lines on the cluster's nodes, errors and costs."""
    yield f"cluster {cluster.name}: {cluster.kind}, {cluster.state}"
    if cluster.kind != CLUSTER_TYPE:
        return
    place = network(cluster.subnet, public_ip=cluster.has_public_ip)
    yield f"nodes: {cluster.vm_size}, {cluster.priority.lower()}{place}"
    if cluster.scale is not None:
        low, high, idle_seconds = map(_known, cluster.scale)
        yield f"scale: {low} to {high} nodes; an idle node is released after {idle_seconds} seconds"
    yield from (f"error: {error}" for error in cluster.errors)
    yield from _status(cluster)
    yield from costs(cluster, config)


def costs(cluster: Cluster, config: AzureConfig) -> Iterator[str]:
    """Yield lines on billed nodes, and what releases them."""
    if cluster.kind != CLUSTER_TYPE:
        return
    nodes, (least, _, idle_seconds) = cluster.nodes or 0, cluster.scale or (0, 0, None)
    if not nodes and not least:
        yield f"cluster {cluster.name} has no nodes (nothing is billed)"
        return
    if nodes:
        up = "1 node, which is" if nodes == 1 else f"{nodes} nodes, which are"
        yield f"cluster {cluster.name} has {up} billed until released"
    if least:
        kept = "1 node" if least == 1 else f"{least} nodes"
        yield f"cluster {cluster.name} always keeps {kept}, billed until you delete it (min_nodes={least})"
    if nodes > (least or 0):
        yield f"idle nodes are released after {_known(idle_seconds)} seconds"
    yield f"release them now: {command('delete', config)}"


def error_text(entry: Any) -> str:
    """Return a provisioning error on one line.

    Includes its details, which list the allowed values.
    """
    error = entry.get("error", entry) if isinstance(entry, dict) else {"message": str(entry)}
    details = filter(lambda detail: isinstance(detail, dict), error.get("details") or [])
    texts = (error.get("code"), error.get("message"), *(detail.get("message") for detail in details))
    return " ".join(" ".join(filter(None, texts)).split())


def _status(cluster: Cluster) -> Iterator[str]:
    """Yield lines: the service's warnings and the cluster's status.

    A cluster that works may have errors in its status: warnings, and why it gets no nodes now.
    """
    for entry in cluster.status.get("errors") or ():
        yield f"the service says of cluster {cluster.name}: {error_text(entry)}"
    if cluster.status:
        yield f"cluster status: {json.dumps(cluster.status, default=str)}"


def _known(value: object) -> object:
    return "unknown" if value is None else value
