"""Finds, creates, shows and deletes the cluster, and reports what its nodes cost.

A cluster is an AmlCompute, the successor of Batch AI: `BatchAiCompute` is no longer in the SDK.
"""

from __future__ import annotations

import json
import shlex
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import (
    QUOTA_HINT,
    STILL_WAITING_SECONDS,
    call,
    call_with_retries,
    is_about_quota,
)
from mnist_cnn.backends.azure.config import has_gpu
from mnist_cnn.backends.remote.calls import ATTEMPTS, report
from mnist_cnn.backends.remote.failures import NodesRefused
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig

CLUSTER_TYPE = "AmlCompute"
WAIT_SECONDS = 20 * 60
FIRST_POLL_SECONDS, SLOW_POLL_SECONDS = 0.2, 5.0
"""Pauses between two polls: the first one, doubled each time up to the second."""


def ensure(workspace: Any, target: Any | None, config: AzureConfig) -> Any:
    """Return the cluster `target`, or create it if it is None; it may not be ready yet.

    Differences from the configuration are reported; the cluster isn't changed.

    Raises:
        BackendError: the name belongs to something else, or the service doesn't answer.
        NodesRefused: the service refuses the new cluster.
    """
    if target is None:
        return _create(workspace, config)
    if target.type != CLUSTER_TYPE:
        message = f"{config.cluster} is a {target.type}, not a cluster ({CLUSTER_TYPE})"
        raise BackendError(message, "choose another name with backend.cluster=NAME")
    report(f"cluster {target.name}: found")
    for line in differences(target, config):
        report(line)
    if config.use_gpu and not has_gpu(str(target.vm_size)):
        nodes = f"the nodes of cluster {target.name} ({target.vm_size})"
        message = f"backend.use_gpu=true, but {nodes} have no GPU"
        raise BackendError(message, "choose a cluster whose nodes have GPUs: backend.cluster=NAME")
    return target


def wait_until_ready(target: Any, config: AzureConfig) -> None:
    """Wait until the cluster accepts runs; its nodes start later, when a run needs them.

    Raises:
        BackendError: it has failed, is being deleted, or isn't ready in time.
        NodesRefused: it has failed, and a new one of the configured size would fail too.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    pause, reported, reported_at = FIRST_POLL_SECONDS, "Succeeded", 0.0
    while (state := str(target.provisioning_state).capitalize()) != "Succeeded":
        left = deadline - time.monotonic()
        if state != reported or time.monotonic() - reported_at > STILL_WAITING_SECONDS:
            report(f"cluster {target.name}: {state.lower()}; waiting for up to {left / 60:.0f} minutes")
            reported, reported_at = state, time.monotonic()
        hint = f"delete it: {command('delete', config)}"
        if state == "Deleting":
            raise BackendError(f"cluster {target.name} is being deleted", "try again when it is gone")
        if state in ("Failed", "Canceled"):
            reason = "; ".join(_texts(target.provisioning_errors)) or "the service gives no reason"
            if is_about_quota(reason):
                hint = f"{QUOTA_HINT}; then {hint}"
            is_of_this_size = str(target.vm_size).upper() == config.vm_size.upper()
            is_lasting = state == "Failed" and is_of_this_size and not is_about_quota(reason)
            kind = NodesRefused if is_lasting else BackendError
            raise kind(f"cluster {target.name} is {state.lower()}: {reason}", hint)
        if left < 0:
            message = f"cluster {target.name} is still {state.lower()} after {WAIT_SECONDS // 60} minutes"
            raise BackendError(message, hint)
        time.sleep(pause)
        pause = min(SLOW_POLL_SECONDS, 2 * pause)
        call_with_retries("read the cluster's state", target.refresh_state)
    report(f"cluster {target.name}: ready")
    for line in _status(target):
        report(line)


def find(workspace: Any, name: str) -> Any | None:
    """Return the compute target of that name, or None if it doesn't exist. Raises ServiceError."""

    def find_target() -> Any:
        from azureml.core.compute import ComputeTarget

        return ComputeTarget(workspace=workspace, name=name)

    try:
        target = call(f"find the cluster {name}", find_target)
    except ServiceError as error:
        # The SDK raises one exception for "refused" and for "not found"; only the text differs.
        if "ComputeTargetNotFound" in error.detail:
            return None
        raise
    if target is None:  # the SDK returns None for a type of compute that it has no class for
        message = f"{name} is a compute target, but not a cluster ({CLUSTER_TYPE})"
        raise ServiceError(message, "choose another name with backend.cluster=NAME")
    return target


def differences(target: Any, config: AzureConfig) -> Iterator[str]:
    """Yield a line for each setting in which the cluster differs from the configuration."""
    low, high, idle_seconds = _scale(target)
    settings = {
        "vm_size": (str(target.vm_size).upper(), config.vm_size.upper()),
        "priority": (str(target.vm_priority).lower(), config.priority.value),
        "min_nodes": (low, config.min_nodes),
        "max_nodes": (high, config.max_nodes),
        "idle_seconds": (idle_seconds, config.idle_seconds),
    }
    for name, (found, wanted) in settings.items():
        if found != wanted:
            yield f"cluster {target.name} has {name}={found}, not backend.{name}={wanted}; it is not changed"


def command(action: str, config: AzureConfig) -> str:
    """Return a command line that shows or deletes the cluster."""
    workspace = f" backend.workspace={shlex.quote(config.workspace)}" if config.workspace else ""
    return f"python -m mnist_cnn cluster {action} backend=azure backend.cluster={config.cluster}{workspace}"


def show(target: Any, config: AzureConfig) -> Iterator[str]:
    """Yield lines on the cluster's nodes, errors, status and costs."""
    yield f"cluster {config.cluster}: {target.type}, {target.provisioning_state}"
    if target.type != CLUSTER_TYPE:
        return
    yield f"nodes: {target.vm_size}, {str(target.vm_priority).lower()}"
    if target.scale_settings:
        low, high, idle_seconds = _scale(target)
        yield f"scale: {low} to {high} nodes; an idle node is released after {idle_seconds} seconds"
    yield from (f"error: {error}" for error in _texts(target.provisioning_errors))
    yield from _status(target)
    yield from costs(target, config)


def costs(target: Any, config: AzureConfig) -> Iterator[str]:
    """Yield lines: how many nodes are billed, and what releases them. Sends no request."""
    if target.type != CLUSTER_TYPE:
        return
    nodes = target.status.current_node_count or 0 if target.status is not None else 0
    least = target.scale_settings.minimum_node_count or 0 if target.scale_settings else 0
    if not nodes and not least:
        yield f"cluster {target.name} has no nodes (nothing is billed)"
        return
    if nodes:
        up = "1 node, which is" if nodes == 1 else f"{nodes} nodes, which are"
        yield f"cluster {target.name} has {up} billed until released"
    if least:
        kept = "1 node" if least == 1 else f"{least} nodes"
        yield f"cluster {target.name} always keeps {kept}, billed until you delete it (min_nodes={least})"
    if nodes > least:
        yield f"idle nodes are released after {_scale(target)[-1]} seconds"
    yield f"release them now: {command('delete', config)}"


def delete(target: Any, config: AzureConfig) -> Iterator[str]:
    """Delete the cluster and wait until it is gone; yield lines to print. Raises BackendError."""
    name, workspace = config.cluster, target.workspace
    if target.type != CLUSTER_TYPE:
        message = f"{name} is a {target.type}, not a cluster ({CLUSTER_TYPE}); it was not deleted"
        raise BackendError(message, "see https://ml.azure.com")
    yield f"cluster {name}: deleting; waiting for up to {WAIT_SECONDS // 60} minutes"
    call(f"delete the cluster {name}", partial(_delete, target))
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_POLL_SECONDS
    while (target := find(workspace, name)) is not None:
        if time.monotonic() > deadline:
            state = target.provisioning_state
            raise BackendError(f"cluster {name} is still {state}", "see https://ml.azure.com")
        time.sleep(pause)
        pause = min(SLOW_POLL_SECONDS, 2 * pause)
    yield f"cluster {name}: deleted"


def _delete(target: Any) -> None:
    with suppress(KeyError):  # the SDK raises it if the service answers that the cluster is gone
        target.delete()


def _create(workspace: Any, config: AzureConfig) -> Any:
    """Create the cluster; look for it before a second attempt, which would overwrite it."""
    report(f"cluster {config.cluster}: creating it with {config.nodes}")
    attempt = 1
    while True:
        try:
            return call(f"create the cluster {config.cluster}", partial(_request_creation, workspace, config))
        except ServiceError as error:
            if error.status == 400 and not is_about_quota(error.detail):  # noqa: PLR2004
                raise NodesRefused(error.message, "choose other nodes for the cluster") from error
            if not error.is_transient:
                raise
            if (target := find(workspace, config.cluster)) is not None:  # the answer was lost
                return target
            if error.is_abandoned or attempt == ATTEMPTS:
                raise
            report(f"{error.message}; retrying in {2**attempt} seconds")
            time.sleep(2**attempt)
            attempt += 1


def _request_creation(workspace: Any, config: AzureConfig) -> Any:
    from azureml.core.compute import AmlCompute, ComputeTarget

    _send_creation_once()
    provisioning = AmlCompute.provisioning_configuration(
        vm_size=config.vm_size,
        vm_priority=config.priority.value,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        idle_seconds_before_scaledown=config.idle_seconds,
    )
    return ComputeTarget.create(workspace, config.cluster, provisioning)


class _CreationError(Exception):
    """The request that creates a cluster failed; `status_code` is None without an answer."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


def _send_creation_once() -> None:
    """Keep the SDK from repeating the request that creates a cluster.

    If the answer was lost, the second request would overwrite the cluster. The SDK makes a session for each
    call, and retries what its `put` raises or answers.
    """
    import requests
    from azureml._restclient import clientbase
    from azureml.core.compute import compute

    class Session(requests.Session):
        def put(self, *arguments: Any, **options: Any) -> requests.Response:
            try:
                answer = super().put(*arguments, **options)
            except requests.RequestException as error:
                raise _CreationError(str(error)) from error
            if answer.status_code in clientbase.RETRYABLE_STATUS_CODES:
                raise _CreationError(answer.text or answer.reason, answer.status_code)
            return answer

    compute.get_requests_session = Session


def _status(target: Any) -> Iterator[str]:
    """Yield lines: the service's warnings, and the status as the SDK serializes it, if there is one.

    A cluster that works may have errors in its status: warnings, and why it gets no nodes now.
    """
    if target.status is not None:
        yield from (
            f"the service says of cluster {target.name}: {text}" for text in _texts(target.status.errors)
        )
        yield f"cluster status: {json.dumps(target.status.serialize(), default=str)}"


def _texts(errors: Any) -> Iterator[str]:
    """Yield the service's errors with their details, which list the allowed values."""
    for entry in errors or []:
        error = entry.get("error", entry) if isinstance(entry, dict) else {"message": str(entry)}
        details = filter(lambda detail: isinstance(detail, dict), error.get("details") or [])
        texts = (error.get("code"), error.get("message"), *(detail.get("message") for detail in details))
        yield " ".join(" ".join(filter(None, texts)).split())


def _scale(target: Any) -> tuple[int | str, int | str, int | str]:
    """Return the fewest nodes, the most, and the seconds after which an idle one is released."""
    scale = target.scale_settings
    if not scale:
        return "unknown", "unknown", "unknown"
    idle_seconds = scale.idle_seconds_before_scaledown
    return (
        scale.minimum_node_count,
        scale.maximum_node_count,
        "unknown" if idle_seconds is None else int(idle_seconds),
    )
