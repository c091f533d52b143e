"""The part of a service that both SDKs share."""

from __future__ import annotations

import dataclasses
import secrets
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import checks, cluster, outcome, plan
from mnist_cnn.backends.azure.calls import call_with_retries
from mnist_cnn.backends.azure.config import Priority
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.service import BaseService, Limits, Observation, ServiceError
from mnist_cnn.backends.remote.state import CANCELLED
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.training import network_check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.service import Handle
    from mnist_cnn.job import Job

ENDING_SECONDS = 1800.0
"""Grace period for the service to end a run.

It begins after the run's maximum duration.
"""


class AzureService(BaseService):
    """A workspace and its cluster, through one SDK.

    It remembers the run's last state, to report an unknown one once.
    """

    pages = "in the studio"
    nodes_setting = "backend.vm_size=SIZE"

    def __init__(self, config: AzureConfig) -> None:
        self.config = config
        self.nodes = f"cluster {config.cluster} with {config.nodes}"  # which a start creates if it is missing
        run_seconds, retries = config.max_duration * 60 + ENDING_SECONDS, config.preemption_retries
        self.limits = Limits(config.queue_timeout, run_seconds, retries, preparing=outcome.PREPARING)
        self._state = ""

    def check(self, job: Job) -> None:
        """Check request, SDK, workspace file, credentials and network."""
        plan.request(job, self.config)
        checks.check_all(self.config)
        checks.check_network(self.config)
        network_check.check(job)

    def request(self, job: Job, *, force: bool = False, pause_after: int | None = None) -> plan.Request:
        """Return what is sent."""
        return plan.request(job, self.config, force=force, pause_after=pause_after)

    def describe(self, request: plan.Request) -> tuple[tuple[str, str], ...]:
        """Return labels and values."""
        return plan.describe(request, self.config)

    def settings(self) -> dict[str, Any]:
        """Return the settings, including the chosen SDK.

        The workspace's path is absolute.
        """
        values = super().settings()
        del values["data"]  # how data files were sent does not concern the run
        workspace = str(checks.workspace_file(self.config.workspace))
        return values | {"sdk": checks.chosen_sdk(self.config).value, "workspace": workspace}

    def place(self) -> dict[str, str]:
        """Return the workspace's name."""
        return dataclasses.asdict(checks.find_workspace(self.config.workspace))

    def new_id(self) -> str:
        """Return a new name for a run."""
        return f"{self.config.experiment}_{int(time.time())}_{secrets.token_hex(4)}"

    def find_cluster(self, handle: Handle) -> Cluster | None:
        """Return the cluster, or None. Raises ServiceError."""
        raise NotImplementedError

    def read_text(self, handle: Handle, name: str) -> str:
        """Return one of a run's logs. Raises ServiceError."""
        raise NotImplementedError

    def observe(self, state: str, *, has_log: bool) -> Observation:
        """Return a run's observation; report an unknown state."""
        if state not in outcome.STATUSES and state != self._state:
            report(f"the service reports the unknown state {state}; it counts as running")
        self._state = state
        status = outcome.STATUSES.get(state, Status.running)
        return Observation(state, status, is_cancelling=state == outcome.CANCELLING, has_log=has_log)

    def explain(self, handle: Handle, seen: Observation, details: dict[str, Any]) -> Observation:
        """Add why a run failed or was cancelled.

        Returns the observation. `details` are what the run history says.
        """
        if seen.status is Status.failed:
            seen = dataclasses.replace(seen, **outcome.failure(details, self.config.workers))
            if (name := outcome.image_log(details)) is not None:
                seen = dataclasses.replace(seen, error=f"{seen.error} {self._image_problem(handle, name)}")
        if seen.status is Status.cancelled and CANCELLED not in handle.place:
            limit, resubmit = self.config.max_duration, self.config.resubmit_cancelled
            nodes = self._nodes_of_run(handle)
            seen = dataclasses.replace(seen, **outcome.cancellation(details, nodes, limit, resubmit=resubmit))
        return seen

    def _image_problem(self, handle: Handle, name: str) -> str:
        """Return why the image was not built."""
        try:
            return f"It says: {outcome.image_problem(self.read_text(handle, name))}"
        except ServiceError:
            return "It cannot be read now."

    def _nodes_of_run(self, handle: Handle) -> outcome.Nodes:
        """Return what is known of the run's nodes.

        If the service doesn't answer, only the configuration is known.
        """
        try:
            found = self.find_cluster(handle)
        except ServiceError:
            found = None
        if found is None:
            return outcome.Nodes(self.config.priority is Priority.lowpriority, self.config.max_nodes)
        _, most, _ = found.scale or (None, None, None)
        is_spot = found.priority.lower() == Priority.lowpriority
        most = self.config.max_nodes if most is None else most
        return outcome.Nodes(is_spot, most, found.count("preempted"), found.count("idle", "running"))

    def costs(self, handle: Handle) -> Iterator[str]:
        """Yield lines on billed nodes, and what releases them."""
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


def report_metrics(read: Callable[[], dict[str, Any]]) -> None:
    """Report the run's metrics; result.json has them too."""
    try:
        metrics = call_with_retries("read the run's metrics", read)
    except ServiceError as error:
        report(f"{error.message}; result.json has them too")
        return
    last = {
        name: values[-1] if isinstance(values, list) else values for name, values in sorted(metrics.items())
    }
    report(f"metrics: {', '.join(f'{name} {value}' for name, value in last.items()) or 'none'}")


def workspace_name(handle: Handle) -> checks.WorkspaceName:
    """Return the receipt's workspace. Raises BackendError if it's missing."""
    try:
        return checks.WorkspaceName(*itemgetter("subscription_id", "resource_group", "name")(handle.place))
    except KeyError as error:
        message = f"{handle.folder / run_folder.RECEIPT} does not name a workspace"
        raise BackendError(message, "start a new run") from error
