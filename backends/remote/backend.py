"""A backend whose runs train on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mnist_cnn import run_folder
from mnist_cnn.backend import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backends.remote.run import RemoteRun
    from mnist_cnn.backends.remote.service import Service
    from mnist_cnn.config import BackendConfig, Config
    from mnist_cnn.job import Job


class RemoteBackend:
    """Implements `Backend` with a `Service`.

    A subclass sets CONFIG and defines `service`.
    """

    CONFIG: ClassVar[type[BackendConfig]]
    parallel_runs: int | None = None
    ends_with_its_command = False

    def __init__(self, config: Config) -> None:
        if not isinstance(config.backend, self.CONFIG):
            raise TypeError(f"expected {self.CONFIG.__name__}, not {type(config.backend).__name__}")
        self.config = config

    def service(self) -> Service:
        """Return a configured service for one run."""
        raise NotImplementedError

    def plan(self, job: Job) -> Plan:
        """Return the request that `submit` would send."""
        service = self.service()
        return Plan(service.describe(service.request(job, pause_after=self.config.run.pause_after)))

    def check(self, job: Job) -> None:
        """Check what can be checked before the run has a folder.

        Raises ConfigurationError, DataError or BackendError.
        """
        self.service().check(job)

    def submit(self, job: Job, folder: Path) -> RemoteRun:
        """Start the run on the cluster; write the receipt."""
        from mnist_cnn.backends.remote import submission  # `plan` does not need it

        service, status = self.service(), None
        is_here = (folder / run_folder.RECEIPT).exists()
        if is_here and run_folder.read_receipt(folder).backend == service.config.name:
            status = self.attach(folder).status()
        run = self.config.run
        submission.submit(job, service, folder, status, force=run.force, pause_after=run.pause_after)
        return self.attach(folder)

    def attach(self, folder: Path) -> RemoteRun:
        """Return the run in a folder."""
        from mnist_cnn.backends.remote.run import RemoteRun

        return RemoteRun(folder, self.service_of(folder))

    def service_of(self, folder: Path) -> Service:  # noqa: ARG002 - a backend of several services needs it
        """Return the service that a run was submitted to."""
        return self.service()
