"""Azure Machine Learning as a `Service`, through SDK v2."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends.azure import registration
from mnist_cnn.backends.azure.calls import UNAUTHORIZED, call
from mnist_cnn.backends.azure.outcome import STATUSES, STREAMED
from mnist_cnn.backends.azure.service import AzureService, report_metrics, workspace_name
from mnist_cnn.backends.azure.v2 import cluster, prepare
from mnist_cnn.backends.azure.v2.sdk import Workspace, open_workspace
from mnist_cnn.backends.azure.v2.store import RUN_FILES, open_datastore
from mnist_cnn.backends.remote import submission
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.node import OUTPUTS
from mnist_cnn.backends.remote.service import Observation, ServiceError
from mnist_cnn.backends.remote.state import CANCELLED

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mnist_cnn.backends.azure import plan
    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.service import Handle, Store
    from mnist_cnn.result import Result

LOG_SECONDS = 60.0
WITHOUT_LOG = (Status.queued, Status.preparing)


class WorkspaceService(AzureService):
    """A workspace and its cluster, with the logs' names."""

    def __init__(self, config: AzureConfig) -> None:
        super().__init__(config)
        self._logs: dict[str, str] = {}

    def prepare(self, handle: Handle, request: plan.Request) -> AbstractContextManager[Any]:
        """Send data, code and checkpoint; prepare the cluster."""
        return prepare.prepared(workspace_of(handle), handle, request, self.config)

    def start(self, handle: Handle, request: plan.Request, prepared: Any) -> str:  # noqa: ARG002
        """Submit the job. A repeated request changes nothing."""
        jobs = workspace_of(handle).client.jobs
        submit = partial(jobs.create_or_update, prepared)
        page = str(call("submit the run", submit, submission.SUBMIT_SECONDS).studio_url or "")
        report(f"run {handle.id}: {page}")
        return page

    def find(self, handle: Handle) -> Observation | None:
        """Return the run's state and error."""
        workspace = workspace_of(handle)  # outside `try`: a missing workspace does not mean a missing run
        try:
            job = call("read the run's state", partial(workspace.client.jobs.get, handle.id))
        except ServiceError as error:
            if error.is_not_found:
                return None
            raise
        state = str(getattr(job.status, "value", job.status))  # the SDK has an enum for the states it knows
        seen = self.observe(state, has_log=STATUSES.get(state) not in WITHOUT_LOG)
        is_ours = seen.status is Status.cancelled and CANCELLED in handle.place
        if is_ours or seen.status not in (Status.failed, Status.cancelled):
            return seen
        return self.explain(handle, seen, _details(workspace, handle))

    def cancel(self, handle: Handle) -> None:
        """Ask the service to end the run."""
        jobs = workspace_of(handle).client.jobs
        call("cancel the run", partial(jobs.begin_cancel, handle.id, polling=False))

    def read_log(self, handle: Handle, first: int) -> bytes | None:
        """Return the node's log from a byte on."""
        return call("read the node's log", partial(self._read_log, handle, first), LOG_SECONDS)

    def _read_log(self, handle: Handle, first: int) -> bytes:
        """Return the log from a byte on.

        It is empty if the trainer has printed nothing.
        """
        name = self._logs.get(handle.id) or _find_log(handle)
        if name is None:
            return b""
        self._logs[handle.id] = name
        return _read_blob(handle, name, first)

    def read_text(self, handle: Handle, name: str) -> str:
        """Return one of the run's logs. Raises ServiceError."""
        content = call(f"read {name}", partial(_read_blob, handle, name), LOG_SECONDS)
        return content.decode(errors="replace")

    def files(self, handle: Handle) -> list[str]:
        """Return the names in the run's outputs.

        Reports them, and the run's metrics.
        """
        report_metrics(partial(_metrics, handle))
        prefix = _blob(handle, f"{OUTPUTS}/")
        container = _run_files(handle)
        list_blobs = partial(container.list_blob_names, name_starts_with=prefix)
        names = call("list the run's files", lambda: sorted(list_blobs()))
        found = [name.removeprefix(prefix) for name in names]
        report(f"files: {', '.join(f'{OUTPUTS}/{name}' for name in found) or 'none'}")
        return found

    def download(self, handle: Handle, name: str, target: Path, seconds: float) -> None:
        """Download a file of the run's outputs."""
        container = _run_files(handle)

        def download() -> None:
            with target.open("wb") as file:
                container.download_blob(_blob(handle, f"{OUTPUTS}/{name}")).readinto(file)

        call(f"download {name}", download, seconds)

    def store(self, handle: Handle) -> Store:
        """Return the files of the default datastore."""
        return open_datastore(workspace_of(handle)).files

    def register(self, handle: Handle, name: str, result: Result) -> ModelRef:
        """Register the model in the workspace."""
        from azure.ai.ml.entities import Model

        path = f"azureml://jobs/{handle.id}/outputs/artifacts/paths/{registration.MODEL}"
        client = workspace_of(handle).client

        def create(tags: dict[str, str]) -> None:
            """Create the next version.

            Repeated requests name the same version.
            """
            model = Model(name=name, path=path, type="custom_model", tags=tags, properties=dict(tags))
            client.models.create_or_update(model)

        def archive(model: Any) -> None:
            """Hide a version; this SDK can't delete one."""
            client.models.archive(model.name, model.version)

        models = registration.Models(partial(client.models.list, name), create, archive)
        return registration.register(handle.id, name, result, models)

    def page(self, handle: Handle) -> str:
        """Return the URL of the run in the studio."""
        jobs = workspace_of(handle).client.jobs
        return str(call("find the run's page", partial(jobs.get, handle.id)).studio_url or "")

    def find_cluster(self, handle: Handle) -> Cluster | None:
        """Return the cluster, or None if there is none."""
        return cluster.find(workspace_of(handle), self.config.cluster)


def workspace_of(handle: Handle) -> Workspace:
    """Return the receipt's workspace; log in if necessary."""
    return open_workspace(workspace_name(handle))


def _details(workspace: Workspace, handle: Handle) -> dict[str, Any]:
    """Return the run history's details of an ended run.

    They are empty if the service refuses to answer.
    """
    what, history = "read how the run has ended", partial(workspace.history, f"runs/{handle.id}/details")
    try:
        details: dict[str, Any] = call(what, history)
    except ServiceError as error:
        if error.is_transient or error.status == UNAUTHORIZED:  # it may answer after the next login
            raise
        report(f"{error.message}; its end is recorded without a reason")
        return {}
    return details


def _run_files(handle: Handle) -> Any:
    """Return the container with the runs' outputs and logs."""
    return open_datastore(workspace_of(handle), RUN_FILES).container


def _find_log(handle: Handle) -> str | None:
    """Return the name of the trainer's log, or None.

    It depends on the node's runtime.
    """
    prefix = _blob(handle, "")
    names = _run_files(handle).list_blob_names(name_starts_with=prefix)
    logs = (name.removeprefix(prefix) for name in names)
    return min((name for name in logs if STREAMED.fullmatch(name)), default=None)


def _read_blob(handle: Handle, path: str, first: int = 0) -> bytes:
    """Return a run's file from byte `first` on.

    It is empty if the file is missing or shorter.
    """
    from azure.core.exceptions import HttpResponseError

    try:
        content: bytes = _run_files(handle).download_blob(_blob(handle, path), offset=first).readall()
    except HttpResponseError as error:
        if error.status_code in (404, 416):
            return b""
        raise
    return content


def _blob(handle: Handle, path: str) -> str:
    return f"ExperimentRun/dcid.{handle.id}/{path}"


def _metrics(handle: Handle) -> dict[str, float]:
    """Return the last value of each metric.

    Call it within `call`.
    """
    answer = workspace_of(handle).metrics(f"runs/get?run_id={handle.id}")
    return {metric["key"]: metric["value"] for metric in answer["run"]["data"].get("metrics") or ()}
