"""Azure Machine Learning as a `Service`, through SDK v1."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends.azure import registration
from mnist_cnn.backends.azure.calls import call
from mnist_cnn.backends.azure.outcome import STATUSES, STREAMED, has_node_log
from mnist_cnn.backends.azure.service import AzureService, report_metrics, workspace_name
from mnist_cnn.backends.azure.v1 import cluster, prepare, store
from mnist_cnn.backends.azure.v1.sdk import open_workspace
from mnist_cnn.backends.remote import submission
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.node import OUTPUTS
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import Observation, ServiceError
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mnist_cnn.backends.azure import plan
    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.service import Handle, Store
    from mnist_cnn.result import Result

LIST_SECONDS = 60.0
"""How long the URLs of logs are reused.

They are valid for hours.
"""
LOG_TIMEOUT_SECONDS = 30.0
RUN_FILES = "ExperimentRun"
"""How the service calls the files of runs."""


class WorkspaceService(AzureService):
    """A workspace and its cluster.

    Remembers the SDK's run, and the URLs of its logs.
    """

    def __init__(self, config: AzureConfig) -> None:
        super().__init__(config)
        self._run: Any = None
        self._log_urls: dict[str, str] | None = {}
        self._logs_listed_at = 0.0

    def prepare(self, handle: Handle, request: plan.Request) -> AbstractContextManager[Any]:
        """Send data, code and checkpoint; prepare the cluster."""
        return prepare.prepared(workspace_of(handle), handle, request, self.config)

    def start(self, handle: Handle, request: plan.Request, prepared: tuple[Any, Any]) -> str:  # noqa: ARG002
        """Submit the run under its id."""
        experiment, configuration = prepared
        submit = partial(experiment.submit, configuration, run_id=handle.id)
        self._run = call("submit the run", submit, submission.SUBMIT_SECONDS)
        page = self.page(handle)
        report(f"run {handle.id}: {page}")
        return page

    def on_started(self, handle: Handle, request: plan.Request) -> None:
        """Tag the run."""
        call("tag the run", lambda: self._sdk_run(handle).set_tags(request.tags))

    def find(self, handle: Handle) -> Observation | None:
        """Return the run's state and error."""
        workspace = workspace_of(handle)  # outside `try`: a missing workspace does not mean a missing run
        try:
            run = self._sdk_run(handle, workspace)
        except ServiceError as error:
            if error.is_not_found:
                return None
            raise
        details, has_log = self._details(run), True
        if self._log_urls is not None:
            has_log = has_node_log(self._log_urls)
        return self.explain(handle, self.observe(str(details.get("status")), has_log=has_log), details)

    def read_text(self, handle: Handle, name: str) -> str:  # noqa: ARG002 - `find` has read its details
        """Return one of the run's logs. Raises ServiceError."""
        url = (self._log_urls or {}).get(name)
        if url is None:
            raise ServiceError(f"the service does not list {name}")
        content = call(f"read {name}", partial(_read_url, url, 0), 2 * LOG_TIMEOUT_SECONDS)
        return content.decode(errors="replace")

    def _sdk_run(self, handle: Handle, workspace: Any = None, *, again: bool = False) -> Any:
        is_known = self._run is not None and self._run.id == handle.id
        if again or not is_known:
            workspace = workspace or workspace_of(handle)
            self._run = call("find the run", lambda: find_run(workspace, handle.id))
        if not is_known:
            self._state, self._log_urls, self._logs_listed_at = "", {}, 0.0
        return self._run

    def _details(self, run: Any) -> dict[str, Any]:
        """Return the run's state and error; remember its logs.

        `_log_urls` is None if they can't be listed. Reading the state takes one request, the details take
        three. So the details are read only if the state has changed, or if the log may be a new one.
        """
        what, status, urls = "read the run's state", STATUSES.get(self._state), self._log_urls or {}
        has_no_log = status in (Status.queued, Status.preparing)
        is_recent = time.monotonic() - self._logs_listed_at < LIST_SECONDS
        is_under_way = status is not None and not status.is_final
        if is_recent and is_under_way and (has_no_log or has_node_log(urls)):
            state = str(call(what, run.get_status))
            if state == self._state:
                return {"status": state}
        try:
            details: dict[str, Any] = call(what, run.get_details)
        except ServiceError:  # the details fail if the logs can't be listed; the state may still be read
            self._log_urls = None
            return {"status": call(what, run.get_status)}
        self._log_urls, self._logs_listed_at = details.get("logFiles", {}), time.monotonic()
        return details

    def cancel(self, handle: Handle) -> None:
        """Ask the service to end the run.

        The SDK ignores the answer. Without the cancel URI it only writes "canceled" into the history, and the
        job continues. The run that a submission returns may lack it.
        """
        for _ in range(2):
            run = self._sdk_run(handle, again=True)
            if getattr(run, "_run_dto", {}).get("cancel_uri"):
                call("cancel the run", run.cancel)
                return
        hint = f"cancel it in the studio: {run.get_portal_url()}"
        raise BackendError("the service does not say how to cancel this run", hint)

    def read_log(self, handle: Handle, first: int) -> bytes | None:
        """Return the node's log from a byte on.

        None means that the logs could not be listed.
        """
        self._sdk_run(handle)
        urls = self._log_urls
        if urls is None:
            return None
        name = min((name for name in urls if STREAMED.fullmatch(name)), default=None)
        if name is None:
            return b""
        try:
            return call("read the node's log", lambda: _read_url(urls[name], first), 2 * LOG_TIMEOUT_SECONDS)
        except ServiceError:
            self._log_urls = {}  # they may have changed
            raise

    def files(self, handle: Handle) -> list[str]:
        """Return the names in the run's outputs.

        Reports them, and the run's metrics.
        """
        run = self._sdk_run(handle)
        list_files = partial(call, "list the run's files", run.get_file_names)
        names, _ = run_parallel(list_files, partial(report_metrics, run.get_metrics))
        report(f"files: {', '.join(sorted(names)) or 'none'}")
        prefix = f"{OUTPUTS}/"
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def download(self, handle: Handle, name: str, target: Path, seconds: float) -> None:
        """Download a file of the run's outputs.

        The SDK's own method tries for five minutes to read a file that does not exist.
        """
        run = self._sdk_run(handle)

        def download() -> None:
            find = run._client.artifacts.get_artifact_uri  # noqa: SLF001 - as above
            target.write_bytes(_read_url(find(RUN_FILES, run._container, f"{OUTPUTS}/{name}"), 0))  # noqa: SLF001

        call(f"download {name}", download, seconds)

    def store(self, handle: Handle) -> Store:
        """Return the files of the default datastore."""
        return store.files_of(store.default_datastore(workspace_of(handle)))

    def register(self, handle: Handle, name: str, result: Result) -> ModelRef:
        """Register the model in the workspace."""
        from azureml.core import Model

        run, wanted = self._sdk_run(handle), [[registration.RUN_TAG, handle.id]]
        find = partial(Model.list, workspace_of(handle), name=name, tags=wanted)

        def create(tags: dict[str, str]) -> None:
            run.register_model(
                model_name=name, model_path=registration.MODEL, tags=tags, properties=dict(tags)
            )

        models = registration.Models(find, create, Model.delete)
        return registration.register(handle.id, name, result, models)

    def page(self, handle: Handle) -> str:
        """Return the URL of the run in the studio."""
        return str(self._sdk_run(handle).get_portal_url())

    def find_cluster(self, handle: Handle) -> Cluster | None:
        """Return the cluster, or None if there is none."""
        return cluster.find(workspace_of(handle), self.config.cluster)


def find_run(workspace: Any, run_id: str) -> Any:
    """Return the SDK's run. Call it within `sdk.call`."""
    from azureml.core import Run

    return Run.get(workspace, run_id)


def workspace_of(handle: Handle) -> Any:
    """Return the receipt's workspace; log in if necessary."""
    return open_workspace(workspace_name(handle))


def _read_url(url: str, first: int) -> bytes:
    import requests

    answer = requests.get(url, headers={"Range": f"bytes={first}-"}, timeout=LOG_TIMEOUT_SECONDS)
    if answer.status_code == 416:  # noqa: PLR2004 - it is empty, or shorter than that
        return b""
    answer.raise_for_status()
    return answer.content if answer.status_code == 206 else answer.content[first:]  # noqa: PLR2004
