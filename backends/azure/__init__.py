"""The Azure backend: trains on a cluster of an Azure Machine Learning workspace.

Nothing here imports the SDK, because `plan` and the checks before the first request don't need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.remote.backend import RemoteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.v1.service import WorkspaceService
    from mnist_cnn.config import BackendConfig

__all__ = ["AzureBackend", "AzureConfig"]


class AzureBackend(RemoteBackend):
    """Submits jobs to the cluster `backend.cluster` of a workspace."""

    CONFIG: ClassVar[type[BackendConfig]] = AzureConfig

    def service(self) -> WorkspaceService:
        from mnist_cnn.backends.azure.v1.service import WorkspaceService

        return WorkspaceService(self.settings)

    @property
    def settings(self) -> AzureConfig:
        """Return this backend's section of the configuration."""
        assert isinstance(self.config.backend, AzureConfig)  # noqa: S101 - for mypy; checked at the start
        return self.config.backend

    def cluster(self, action: str) -> Iterator[str]:
        """Show or delete the cluster; yield lines to print."""
        checks.check_all(self.settings)
        from mnist_cnn.backends.azure.v1 import cluster, sdk

        workspace = sdk.open_workspace(checks.find_workspace(self.settings.workspace))
        name = self.settings.cluster
        target = cluster.find(workspace, name)
        if target is None:
            return iter([f"cluster {name}: not found in workspace {workspace.name} (nothing is billed)"])
        act = cluster.delete if action == "delete" else cluster.show
        return act(target, self.settings)
