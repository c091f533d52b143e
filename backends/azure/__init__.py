"""The Azure backend: trains on a cluster of an Azure Machine Learning workspace.

Nothing here imports the SDK, because `plan` and the checks before the first request don't need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mnist_cnn.backend import Plan
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure import plan as planning
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.training.exact import network_check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backends.azure.run import AzureRun
    from mnist_cnn.config import BackendConfig, Config
    from mnist_cnn.job import Job

__all__ = ["AzureBackend", "AzureConfig"]


class AzureBackend:
    """Submits jobs to the cluster `backend.cluster` of a workspace."""

    CONFIG: ClassVar[type[BackendConfig]] = AzureConfig
    parallel_runs: int | None = None
    ends_with_its_command = False

    def __init__(self, config: Config) -> None:
        if not isinstance(config.backend, AzureConfig):
            message = f"expected an AzureConfig, not {type(config.backend).__name__}"
            raise TypeError(message)
        self.config = config.backend
        self.force = config.run.force

    def plan(self, job: Job) -> Plan:
        return Plan(planning.describe(planning.request(job, self.config), self.config))

    def check(self, job: Job) -> None:
        """Check everything that needs no request. Raises ConfigurationError, DataError or BackendError."""
        planning.request(job, self.config)
        checks.check_all(self.config)
        network_check.check(job)

    def submit(self, job: Job, folder: Path) -> AzureRun:
        from mnist_cnn.backends.azure.submit import submit

        return submit(job, self.config, folder, force=self.force)

    def attach(self, folder: Path) -> AzureRun:
        from mnist_cnn.backends.azure.run import AzureRun
        from mnist_cnn.backends.azure.submit import resubmit

        return AzureRun(folder, self.config, resubmit)

    def cluster(self, action: str) -> Iterator[str]:
        """Show or delete the cluster; yield lines to print."""
        checks.check_all(self.config)
        from mnist_cnn.backends.azure import cluster, service

        workspace = service.open_workspace(checks.find_workspace(self.config.workspace))
        name = self.config.cluster
        target = cluster.find(workspace, name)
        if target is None:
            return iter([f"cluster {name}: not found in workspace {workspace.name} (nothing is billed)"])
        act = cluster.delete if action == "delete" else cluster.show
        return act(target, self.config)
