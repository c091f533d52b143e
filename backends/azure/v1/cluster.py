"""Finds, creates and deletes the cluster."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import cluster as clusters
from mnist_cnn.backends.azure.calls import call
from mnist_cnn.backends.azure.config import SUBNET
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig


def find(workspace: Any, name: str) -> Cluster | None:
    """Return a compute target, or None. Raises ServiceError.

    None means that it doesn't exist. The SDK's objects drop some of what the service says, and there is none
    for a kind of compute that the SDK doesn't know. So only the SDK's request is used.
    """

    def read() -> Any:
        from azureml.core.compute import ComputeTarget

        return ComputeTarget._get(workspace, name)  # noqa: SLF001 - as above

    return clusters.find(name, read)


def request_creation(workspace: Any, config: AzureConfig) -> None:
    """Create the cluster with a request that isn't repeated.

    Call it within `call`.
    """
    from azureml.core.compute import AmlCompute, ComputeTarget

    _send_creation_once()
    provisioning = AmlCompute.provisioning_configuration(
        vm_size=config.vm_size,
        vm_priority=config.priority.value,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        idle_seconds_before_scaledown=config.idle_seconds,
        enable_node_public_ip=config.public_ip,
        **_network(config),
    )
    ComputeTarget.create(workspace, config.cluster, provisioning)


def _network(config: AzureConfig) -> dict[str, str]:
    """Return the SDK's settings of a subnet.

    The SDK puts it into the workspace's subscription.
    """
    found = SUBNET.fullmatch(config.subnet or "")
    names = {"vnet_resourcegroup_name": "group", "vnet_name": "network", "subnet_name": "subnet"}
    return {setting: found[name] for setting, name in names.items()} if found else {}


class _CreationError(Exception):
    """A cluster could not be created.

    `status_code` is None without an answer.
    """

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


def _send_creation_once() -> None:
    """Keep the SDK from repeating a cluster's creation.

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

    def delete() -> None:
        from azureml.core.compute import ComputeTarget

        with suppress(KeyError):  # the SDK raises it if the service answers that the cluster is gone
            ComputeTarget(workspace=workspace, name=name).delete()

    try:
        call(f"delete the cluster {name}", delete)
    except ServiceError as error:
        if "ComputeTargetNotFound" not in error.detail:  # the exception is of the same type as others
            raise
