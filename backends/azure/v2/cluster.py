"""Finds, creates and deletes the cluster."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnist_cnn.backends.azure import cluster as clusters
from mnist_cnn.backends.azure.calls import call
from mnist_cnn.backends.azure.config import Priority
from mnist_cnn.backends.azure.v2 import sdk

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.azure.v2.sdk import Workspace

TIERS = {Priority.dedicated: "dedicated", Priority.lowpriority: "low_priority"}


def find(workspace: Workspace, name: str) -> Cluster | None:
    """Return a compute target, or None. Raises ServiceError.

    None means that it doesn't exist.
    """
    return clusters.find(name, partial(workspace.arm, "GET", f"/computes/{name}"))


def request_creation(workspace: Workspace, config: AzureConfig) -> None:
    """Create the cluster with a request that isn't repeated.

    Call it within `call`.
    """
    from azure.ai.ml.entities import AmlCompute, NetworkSettings

    cluster = AmlCompute(
        name=config.cluster,
        size=config.vm_size,
        tier=TIERS[config.priority],
        min_instances=config.min_nodes,
        max_instances=config.max_nodes,
        idle_time_before_scale_down=config.idle_seconds,
        location=workspace.location,
        network_settings=NetworkSettings(subnet=config.subnet) if config.subnet else None,
        enable_node_public_ip=config.public_ip,
    )
    sdk.client_without_retries(workspace).compute.begin_create_or_update(cluster)


def request_deletion(workspace: Workspace, name: str) -> None:
    """Ask the service to delete the cluster. Raises ServiceError."""
    call(f"delete the cluster {name}", partial(workspace.client.compute.begin_delete, name))
