"""The Azure backend: a run is a run of Azure Machine Learning, on a cluster of its workspace.

Light: nothing here imports the SDK; `plan` and the checks that come before the first request need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mnist_cnn.backend import Plan
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure import plan as planning
from mnist_cnn.backends.azure.config import AzureConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backends.azure.run import AzureRun
    from mnist_cnn.config import BackendConfig, Config
    from mnist_cnn.job import Job

__all__ = ["AzureBackend", "AzureConfig"]


class AzureBackend:
    """Sends jobs to the cluster `backend.cluster` of a workspace."""

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
        """Say what would be sent."""
        return Plan(planning.describe(planning.request(job, self.config), self.config))

    def check(self, job: Job) -> None:
        """Check all that can be checked before the first request.

        Raises:
            ConfigurationError, DataError: what is wrong on this side.
        """
        planning.request(job, self.config)
        checks.all_of(self.config)

    def submit(self, job: Job, folder: Path) -> AzureRun:
        """Send data, code and job; the receipt names the run from before it starts."""
        from mnist_cnn.backends.azure.submit import submit

        return submit(job, self.config, folder, force=self.force)

    def attach(self, folder: Path) -> AzureRun:
        """Find a run again from its folder alone."""
        from mnist_cnn.backends.azure.run import AzureRun
        from mnist_cnn.backends.azure.submit import resubmit

        return AzureRun(folder, self.config, resubmit)

    def cluster(self, action: str) -> Iterator[str]:
        """Show or delete the cluster; yield lines for people."""
        checks.all_of(self.config)
        from mnist_cnn.backends.azure import cluster, service

        workspace = service.open_workspace(checks.find_workspace(self.config.workspace))
        act = cluster.delete if action == "delete" else cluster.show
        return act(workspace, self.config)
