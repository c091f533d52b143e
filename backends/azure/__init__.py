"""The Azure backend: trains on a cluster of an Azure Machine Learning workspace.

Nothing here imports the SDK, because `plan` and the checks before the first request don't need it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import AzureConfig, Sdk
from mnist_cnn.backends.remote.backend import RemoteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.remote.service import Service
    from mnist_cnn.config import BackendConfig

__all__ = ["AzureBackend", "AzureConfig"]


class AzureBackend(RemoteBackend):
    """Submits jobs to the cluster `backend.cluster` of a workspace."""

    CONFIG: ClassVar[type[BackendConfig]] = AzureConfig

    def service(self) -> Service:
        if checks.chosen_sdk(self.settings) is Sdk.v1:
            from mnist_cnn.backends.azure.v1.service import WorkspaceService as ServiceOfV1

            return ServiceOfV1(self.settings)
        from mnist_cnn.backends.azure.v2.service import WorkspaceService

        return WorkspaceService(self.settings)

    @property
    def settings(self) -> AzureConfig:
        """Return this backend's section of the configuration."""
        assert isinstance(self.config.backend, AzureConfig)  # noqa: S101 - for mypy; checked at the start
        return self.config.backend

    def cluster(self, action: str) -> Iterator[str]:
        """Show or delete the cluster; yield lines to print."""
        checks.check_all(self.settings)
        name = checks.find_workspace(self.settings.workspace)
        if checks.chosen_sdk(self.settings) is Sdk.v1:
            return self._cluster_of_v1(action, name)
        from mnist_cnn.backends.azure import cluster as clusters
        from mnist_cnn.backends.azure.v2 import cluster, sdk

        workspace, target = sdk.open_workspace(name), self.settings.cluster
        find = partial(cluster.find, workspace, target)
        if (found := find()) is None:
            return iter([f"cluster {target}: not found in workspace {name.name} (nothing is billed)"])
        if action == "delete":
            return clusters.delete(found, partial(cluster.request_deletion, workspace, target), find)
        return clusters.show(found, self.settings)

    def _cluster_of_v1(self, action: str, name: checks.WorkspaceName) -> Iterator[str]:
        from mnist_cnn.backends.azure.v1 import cluster, sdk

        workspace, target = sdk.open_workspace(name), self.settings.cluster
        found = cluster.find(workspace, target)
        if found is None:
            return iter([f"cluster {target}: not found in workspace {name.name} (nothing is billed)"])
        act = cluster.delete if action == "delete" else cluster.show
        return act(found, self.settings)
