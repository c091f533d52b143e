"""Finds, creates and deletes the cluster."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import call
from mnist_cnn.backends.azure.cluster import CLUSTER_TYPE, Cluster, error_text
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.config import AzureConfig


def find(workspace: Any, name: str) -> Cluster | None:
    """Return the compute target of that name, or None if it doesn't exist. Raises ServiceError."""
    target = _find_target(workspace, name)
    return None if target is None else describe(target)


def _find_target(workspace: Any, name: str) -> Any | None:
    """Return the SDK's compute target of that name, or None if it doesn't exist. Raises ServiceError."""

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


def describe(target: Any) -> Cluster:
    """Return what the SDK's object says of a compute target."""
    if target.type != CLUSTER_TYPE:
        return Cluster(target.name, target.type, str(target.provisioning_state))
    scale, idle_seconds = target.scale_settings, None
    if scale and scale.idle_seconds_before_scaledown is not None:
        idle_seconds = int(scale.idle_seconds_before_scaledown)
    return Cluster(
        name=target.name,
        kind=target.type,
        state=str(target.provisioning_state),
        errors=tuple(map(error_text, target.provisioning_errors or ())),
        vm_size=str(target.vm_size),
        priority=str(target.vm_priority),
        scale=(scale.minimum_node_count, scale.maximum_node_count, idle_seconds) if scale else None,
        nodes=None if target.status is None else target.status.current_node_count,
        status={} if target.status is None else target.status.serialize(),
    )


def request_creation(workspace: Any, config: AzureConfig) -> None:
    """Create the cluster with a request that is not repeated. Call it within `call`."""
    from azureml.core.compute import AmlCompute, ComputeTarget

    _send_creation_once()
    provisioning = AmlCompute.provisioning_configuration(
        vm_size=config.vm_size,
        vm_priority=config.priority.value,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        idle_seconds_before_scaledown=config.idle_seconds,
    )
    ComputeTarget.create(workspace, config.cluster, provisioning)


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


def request_deletion(workspace: Any, name: str) -> None:
    """Ask the service to delete the cluster. Raises ServiceError."""
    target = _find_target(workspace, name)
    if target is not None:
        call(f"delete the cluster {name}", partial(_delete, target))


def _delete(target: Any) -> None:
    with suppress(KeyError):  # the SDK raises it if the service answers that the cluster is gone
        target.delete()
