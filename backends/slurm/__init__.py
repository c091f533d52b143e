"""The Slurm backend: trains on a cluster's nodes.

They share the file system of the run folders. `script` says what is submitted, `service` submits it, `queue`
asks for all jobs at once, and `outcome` tells what has become of one. `commands` runs Slurm's programs and
translates their errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mnist_cnn.backends.remote.backend import RemoteBackend
from mnist_cnn.backends.slurm import cluster
from mnist_cnn.backends.slurm.config import SlurmConfig
from mnist_cnn.backends.slurm.service import SlurmService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.config import BackendConfig

__all__ = ["SlurmBackend", "SlurmConfig", "SlurmService"]


class SlurmBackend(RemoteBackend):
    """Submits jobs to a partition of a Slurm cluster."""

    CONFIG: ClassVar[type[BackendConfig]] = SlurmConfig

    def service(self) -> SlurmService:
        return SlurmService(self.settings, Path(self.config.register.dir))

    @property
    def settings(self) -> SlurmConfig:
        """Return this backend's section of the configuration."""
        assert isinstance(self.config.backend, SlurmConfig)  # noqa: S101 - for mypy; checked at the start
        return self.config.backend

    def cluster(self, action: str) -> Iterator[str]:
        """Show the cluster; refuse to delete it."""
        if action == "delete":
            cluster.refuse_deletion()
        return cluster.show(self.service().place(), self.settings.partition)
