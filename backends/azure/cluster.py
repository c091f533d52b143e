"""The cluster: found by its name or created, shown, deleted, and what it costs while nothing runs.

AmlCompute is the successor of Batch AI, whose `BatchAiCompute` is gone from the SDK.
"""

from __future__ import annotations

import json
import shlex
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.config import has_gpu
from mnist_cnn.backends.azure.service import STILL_SECONDS, ServiceError, call, call_again, say
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig

KIND = "AmlCompute"
WAIT_SECONDS = 20 * 60
POLL_SECONDS = 5.0
FIRST_POLL_SECONDS = 0.2


def ensure(workspace: Any, target: Any | None, config: AzureConfig) -> Any:
    """Return the cluster that was found, or have one made; differences are told, not mended.

    It may not be ready: `await_ready` waits for that.

    Raises:
        BackendError: it is something else, or refused.
    """
    if target is None:
        return _create(workspace, config)
    if target.type != KIND:
        message = f"{config.cluster} is a {target.type}, not a cluster ({KIND})"
        raise BackendError(message, "choose another name with backend.cluster=NAME")
    say(f"cluster {target.name}: found")
    for line in differences(target, config):
        say(line)
    if config.use_gpu and not has_gpu(str(target.vm_size)):
        message = f"backend.use_gpu=true, but the cluster {target.name} has {target.vm_size}, without a GPU"
        raise BackendError(message, "name a cluster that has them: backend.cluster=NAME")
    return target


def await_ready(target: Any, config: AzureConfig) -> None:
    """Wait until the cluster can take runs.

    Raises:
        BackendError: it is in a failed state, or not ready in time.
    """
    _await_provisioning(target, config)
    say(f"cluster {target.name}: ready")
    if target.status is not None:  # as it was at the last look, which is just over
        say(f"cluster status: {json.dumps(target.status.serialize(), default=str)}")


def find(workspace: Any, name: str) -> Any | None:
    """Return the compute target of that name, or None where there is none.

    Raises:
        ServiceError: the look-up failed, which says nothing of whether there is one.
    """

    def look() -> Any:
        from azureml.core.compute import ComputeTarget

        return ComputeTarget(workspace=workspace, name=name)

    try:
        target = call(f"find the cluster {name}", look)
    except ServiceError as error:
        # A refusal is the same exception as "not found"; only the words tell them apart.
        if "ComputeTargetNotFound" in error.detail:
            return None
        raise
    if target is None:  # the SDK's answer for a kind of compute that it has no class for
        message = f"{name} is a compute target, but not a cluster ({KIND})"
        raise ServiceError(message, "choose another name with backend.cluster=NAME")
    return target


def differences(target: Any, config: AzureConfig) -> Iterator[str]:
    """Yield a line for each setting in which the cluster is not as configured."""
    scale = target.scale_settings
    has = {
        "vm_size": (str(target.vm_size).upper(), config.vm_size.upper()),
        "priority": (str(target.vm_priority).lower(), config.priority.value),
        "min_nodes": (scale.minimum_node_count, config.min_nodes) if scale else ("unknown", config.min_nodes),
        "max_nodes": (scale.maximum_node_count, config.max_nodes) if scale else ("unknown", config.max_nodes),
        "idle_seconds": (_idle_seconds(target), config.idle_seconds),
    }
    for name, (found, wanted) in has.items():
        if found != wanted:
            yield f"cluster {target.name} has {name}={found}, not backend.{name}={wanted}; it stays as it is"


def command(action: str, config: AzureConfig) -> str:
    """Return the command line that shows or deletes the cluster, from whatever folder."""
    place = f" backend.workspace={shlex.quote(config.workspace)}" if config.workspace else ""
    return f"python -m mnist_cnn cluster {action} backend=azure backend.cluster={config.cluster}{place}"


def show(workspace: Any, config: AzureConfig) -> Iterator[str]:
    """Yield what there is to say of a cluster."""
    name = config.cluster
    target = find(workspace, name)
    if target is None:
        yield f"there is no cluster {name} in {workspace.name}; nothing costs"
        return
    yield f"{name}: {target.type}, {target.provisioning_state}"
    if target.type != KIND:
        return
    scale = target.scale_settings
    yield f"nodes of {target.vm_size}, {str(target.vm_priority).lower()}"
    if scale:
        nodes = f"{scale.minimum_node_count} to {scale.maximum_node_count} nodes"
        yield f"{nodes}, idle for {_idle_seconds(target)} s at most"
    for error in _errors(target):
        yield f"error: {error}"
    yield from costs(target, config)


def costs(target: Any, config: AzureConfig) -> Iterator[str]:
    """Say, of a cluster as it was just found, whether it has nodes, what ends them and when they end."""
    if target.type != KIND:
        return
    status = target.status
    nodes = status.current_node_count if status is not None else 0
    scale = target.scale_settings
    least = scale.minimum_node_count if scale else 0
    if not nodes and not least:
        yield f"cluster {target.name} has no nodes and costs nothing now"
        return
    up = "1 node, which costs while it is" if nodes == 1 else f"{nodes or 0} nodes, which cost while they are"
    yield f"cluster {target.name} has {up} there"
    if least:
        yield f"{least} of them stay for ever (min_nodes)"
    if nodes and nodes > (least or 0):
        yield f"nodes without a job end by themselves after {_idle_seconds(target)} seconds"
    yield f"end them now: {command('delete', config)}"


def delete(workspace: Any, config: AzureConfig) -> Iterator[str]:
    """Delete the cluster and wait until it is gone, 20 minutes at most.

    Raises:
        BackendError: it is no cluster, it was refused, or it is still there.
    """
    name = config.cluster
    target = find(workspace, name)
    if target is None:
        yield f"there is no cluster {name} in {workspace.name}"
        return
    if target.type != KIND:
        raise BackendError(
            f"{name} is a {target.type}, not a cluster ({KIND}); it is left alone", "see the studio"
        )
    yield f"deleting the cluster {name}, for {WAIT_SECONDS // 60} minutes at most"
    call(f"delete the cluster {name}", partial(_delete, target))
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_POLL_SECONDS
    while (target := find(workspace, name)) is not None:
        if time.monotonic() > deadline:
            raise BackendError(
                f"the cluster {name} is still {target.provisioning_state}", "look at it in the studio"
            )
        time.sleep(pause)
        pause = min(POLL_SECONDS, 2 * pause)
    yield f"the cluster {name} is deleted"


def _delete(target: Any) -> None:
    with suppress(KeyError):  # the SDK's, where the service says that it is gone
        target.delete()


def _create(workspace: Any, config: AzureConfig) -> Any:
    def create() -> Any:
        from azureml.core.compute import AmlCompute, ComputeTarget

        asked = AmlCompute.provisioning_configuration(
            vm_size=config.vm_size,
            vm_priority=config.priority.value,
            min_nodes=config.min_nodes,
            max_nodes=config.max_nodes,
            idle_seconds_before_scaledown=config.idle_seconds,
        )
        return ComputeTarget.create(workspace, config.cluster, asked)

    say(
        f"cluster {config.cluster}: making it, {config.min_nodes} to {config.max_nodes} "
        f"{config.priority.value} nodes of {config.vm_size}"
    )
    try:
        return call(f"create the cluster {config.cluster}", create)
    except ServiceError as error:
        if error.status is not None and error.status not in (408, 429) and error.status < 500:  # noqa: PLR2004
            raise
        target = find(workspace, config.cluster)  # it may have been made all the same
        if target is None:
            raise
        return target


def _await_provisioning(target: Any, config: AzureConfig) -> None:
    """Wait until the cluster is provisioned; nodes come later, when a run needs them."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause, shown, told = FIRST_POLL_SECONDS, "Succeeded", 0.0
    while (state := str(target.provisioning_state).capitalize()) != "Succeeded":
        left = deadline - time.monotonic()
        if state != shown or time.monotonic() - told > STILL_SECONDS:
            say(f"cluster {target.name}: {state.lower()}, waiting for {left / 60:.0f} minutes at most")
            shown, told = state, time.monotonic()
        hint = f"delete it: {command('delete', config)}"
        if state == "Deleting":
            raise BackendError(f"the cluster {target.name} is being deleted", "start again when it is gone")
        if state in ("Failed", "Canceled"):
            reason = "; ".join(_errors(target)) or "the service gives no reason"
            raise BackendError(f"the cluster {target.name} is {state.lower()}: {reason}", hint)
        if left < 0:
            message = f"the cluster {target.name} is still {state.lower()} after {WAIT_SECONDS // 60} minutes"
            raise BackendError(message, hint)
        time.sleep(pause)
        pause = min(POLL_SECONDS, 2 * pause)
        call_again("ask for the cluster's state", target.refresh_state)


def _errors(target: Any) -> Iterator[str]:
    """Yield the provisioning errors, each with the details that name the allowed values."""
    for entry in target.provisioning_errors or []:
        error = entry.get("error", entry) if isinstance(entry, dict) else {"message": str(entry)}
        details = [
            detail.get("message", "") for detail in error.get("details") or [] if isinstance(detail, dict)
        ]
        yield " ".join(" ".join(filter(None, (error.get("code"), error.get("message"), *details))).split())


def _idle_seconds(target: Any) -> int | str:
    scale = target.scale_settings
    value = scale.idle_seconds_before_scaledown if scale else None
    return "unknown" if value is None else int(value)
