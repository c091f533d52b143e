"""What a workspace's service owes whichever SDK talks to it: settings, limits, plan and cost report."""

from __future__ import annotations

import dataclasses
import secrets
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import checks, cluster, plan
from mnist_cnn.backends.remote.service import Limits
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.training.exact import network_check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.service import Handle
    from mnist_cnn.job import Job

ENDING_SECONDS = 1800.0
"""How long the service may take to end a run after its maximum duration."""


class AzureService:
    """A workspace and its cluster. A subclass talks to them through one SDK."""

    pages = "in the studio"
    nodes_setting = "backend.vm_size=SIZE"

    def __init__(self, config: AzureConfig) -> None:
        self.config = config

    @property
    def limits(self) -> Limits:
        """Return the limits of a followed run."""
        config = self.config
        run_seconds = config.max_duration * 60 + ENDING_SECONDS
        return Limits(config.queue_timeout, run_seconds, config.preemption_retries)

    @property
    def nodes(self) -> str:
        """The cluster that a start creates if it is missing, in words."""
        return f"cluster {self.config.cluster} with {self.config.nodes}"

    def check(self, job: Job) -> None:
        """Check the request, the SDK, the workspace's file, the credentials and a custom network."""
        plan.request(job, self.config)
        checks.check_all(self.config)
        network_check.check(job)

    def request(self, job: Job, *, force: bool = False) -> plan.Request:
        """Return what is sent."""
        return plan.request(job, self.config, force=force)

    def describe(self, request: plan.Request) -> tuple[tuple[str, str], ...]:
        """Return labels and values."""
        return plan.describe(request, self.config)

    def settings(self) -> dict[str, Any]:
        """Return the configuration, with the chosen SDK and an absolute path of the workspace's file."""
        values = dataclasses.asdict(self.config)
        del values["name"], values["data"]  # how data files were sent does not concern the run
        workspace = str(checks.workspace_file(self.config.workspace))
        return values | {"sdk": checks.chosen_sdk(self.config).value, "workspace": workspace}

    def place(self) -> dict[str, str]:
        """Return the workspace's name."""
        return dataclasses.asdict(checks.find_workspace(self.config.workspace))

    def new_id(self) -> str:
        """Return a new name for a run."""
        return f"{self.config.experiment}_{int(time.time())}_{secrets.token_hex(4)}"

    def find_cluster(self, handle: Handle) -> Cluster | None:
        """Return the cluster, or None if there is none. Raises ServiceError."""
        raise NotImplementedError

    def costs(self, handle: Handle) -> Iterator[str]:
        """Yield lines on the cluster's nodes: how many are billed, and what releases them."""
        name = self.config.cluster
        try:
            found = self.find_cluster(handle)
        except MnistCnnError as error:
            yield f"cluster {name}: it is not known whether nodes are billed: {error.message}"
            yield f"check it: {cluster.command('show', self.config)}"
            return
        if found is None:
            yield f"cluster {name}: not found (nothing is billed)"
        else:
            yield from cluster.costs(found, self.config)


def workspace_name(handle: Handle) -> checks.WorkspaceName:
    """Return the workspace that the receipt names. Raises BackendError if it names none."""
    try:
        return checks.WorkspaceName(*itemgetter("subscription_id", "resource_group", "name")(handle.place))
    except KeyError as error:
        message = f"{handle.folder / run_folder.RECEIPT} does not name a workspace"
        raise BackendError(message, "start a new run") from error
