"""The Azure backend: trains on an Azure ML cluster.

Nothing here imports the SDK, because `plan` and the checks before the first request don't need it.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import AzureConfig, Sdk
from mnist_cnn.backends.remote.backend import RemoteBackend
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Service
    from mnist_cnn.config import BackendConfig

__all__ = ["AzureBackend", "AzureConfig"]


class AzureBackend(RemoteBackend):
    """Submits jobs to the cluster `backend.cluster` of a workspace."""

    CONFIG: ClassVar[type[BackendConfig]] = AzureConfig

    def service(self) -> Service:
        """Return the service, which uses the chosen SDK."""
        return _service(self.settings)

    def service_of(self, folder: Path) -> Service:
        """Return the service, which uses the run's SDK.

        The other SDK may not know the run. Raises BackendError if the receipt names an unknown SDK.
        """
        sdk = run_folder.read_receipt(folder).backend_settings.get("sdk", Sdk.v1)
        if sdk not in tuple(Sdk):
            message = f"{folder / run_folder.RECEIPT} is damaged: backend_settings.sdk is {sdk!r}"
            raise BackendError(message, f"set it to {' or '.join(Sdk)}, with which the run was submitted")
        return _service(dataclasses.replace(self.settings, sdk=Sdk(sdk)))

    @property
    def settings(self) -> AzureConfig:
        """Return this backend's section of the configuration."""
        assert isinstance(self.config.backend, AzureConfig)  # noqa: S101 - for mypy; checked at the start
        return self.config.backend

    def cluster(self, action: str) -> Iterator[str]:
        """Show or delete the cluster; yield lines to print."""
        checks.check_all(self.settings)
        from mnist_cnn.backends.azure import cluster

        package = f"{__name__}.{checks.chosen_sdk(self.settings)}"  # both have modules of the same names
        sdk, own = import_module(f"{package}.sdk"), import_module(f"{package}.cluster")
        name, place = self.settings.cluster, checks.find_workspace(self.settings.workspace)
        workspace = sdk.open_workspace(place)
        find = partial(own.find, workspace, name)
        if (found := find()) is None:
            return iter([f"cluster {name}: not found in workspace {place.name} (nothing is billed)"])
        if action == "delete":
            return cluster.delete(found, partial(own.request_deletion, workspace, name), find)
        return cluster.show(found, self.settings)


def _service(settings: AzureConfig) -> Service:
    if checks.chosen_sdk(settings) is Sdk.v1:
        from mnist_cnn.backends.azure.v1.service import WorkspaceService as ServiceOfV1

        return ServiceOfV1(settings)
    from mnist_cnn.backends.azure.v2.service import WorkspaceService

    return WorkspaceService(settings)
