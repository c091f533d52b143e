"""MLflow: runs, and models in its registry."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shlex
import tempfile
import textwrap
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.errors import BackendError
from mnist_cnn.redaction import without_secrets
from mnist_cnn.run_folder import MODEL, ONNX
from mnist_cnn.settings import written
from mnist_cnn.tracking import state as states
from mnist_cnn.tracking.state import VIEW
from mnist_cnn.tracking.tracker import end_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow import MlflowClient

    from mnist_cnn.result import Result
    from mnist_cnn.tracking.state import State
    from mnist_cnn.tracking.tracker import Point, TrackedRun

T = TypeVar("T")

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the recording's thread tries again later
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings, unless the user's environment has others.

Its own limits add up to minutes.
"""
STATUSES = {
    Status.completed: "FINISHED",
    Status.failed: "FAILED",
    Status.lost: "FAILED",
    Status.cancelled: "KILLED",
    Status.paused: "KILLED",
}
RUN_TAG = "mnist_cnn_run"
"""The tag that identifies a run or model version."""
LONGEST_REASON = 300
MOST_METRICS = 1000
MOST_PARAMETERS = 100
"""The most that MLflow takes in one request."""
MODEL_FOLDER = "model"
"""The artifact folder that holds a run's model."""
RECORDS = (run_folder.JOB, run_folder.RESULT, run_folder.LOG)
"""Files that are kept beside plots and model."""


class ServerError(BackendError):
    """An error of an MLflow server or store."""


class MlflowTracker:
    """Writes parameters, metrics, tags and artifacts of one run."""

    def __init__(self, run: TrackedRun, state: State) -> None:
        self._run = run
        self._state = state
        self._uri = state.settings["uri"]

    def start(self) -> State:
        """Find the run by its tag, or create it.

        An earlier end of it no longer counts.
        """
        with naming_the_server(self._uri):
            self._client = client(self._uri)
            run_id = self._state.place.get("run_id") or self._find_or_create()
            found = self._client.get_run(run_id)
            if found.info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
        place = {"run_id": run_id, VIEW: _view(self._uri, found.info.experiment_id, run_id)}
        self._run_id = run_id
        return dataclasses.replace(self._state, place=place, epochs=int(found.data.metrics.get("epoch", 0)))

    def _find_or_create(self) -> str:
        from mlflow.entities import Param

        experiment_id = experiment(self._client, self._state.settings["experiment"])
        found = self._client.search_runs(
            [experiment_id], f"tags.{RUN_TAG} = '{self._state.id}'", max_results=1
        )
        if found:
            run_id: str = found[0].info.run_id
        else:
            tags = {RUN_TAG: self._state.id, **self._run.tags}
            started = int(self._run.created * 1000)
            created = self._client.create_run(experiment_id, started, tags, run_name=self._run.name)
            run_id = created.info.run_id
        settings = [Param(name, written(value)) for name, value in self._run.settings.items()]
        for batch in _batched(settings, MOST_PARAMETERS):
            self._client.log_batch(run_id, params=batch)
        return run_id

    def write(self, points: Sequence[Point]) -> None:
        """Write each number of each epoch as a metric.

        The metric `epoch` tells what is written.
        """
        from mlflow.entities import Metric

        most = MOST_METRICS // max(len(point.values) + 1 for point in points)
        for batch in _batched(points, most):
            metrics = [
                Metric(name, value, int(point.time * 1000), point.epoch)
                for point in batch
                for name, value in {**point.values, "epoch": point.epoch}.items()
            ]
            with naming_the_server(self._uri):
                self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, status: Status, result: Result | None) -> None:
        """Write the result and files, then the status."""
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        metrics = []
        if result is not None:
            measured = {"test_accuracy": result.accuracy, "test_loss": result.loss}
            metrics = [Metric(name, value, now, len(result.history)) for name, value in measured.items()]
        tags = [RunTag(name, value) for name, value in end_tags(status, result).items()]
        with naming_the_server(self._uri):
            self._client.log_batch(self._run_id, metrics=metrics, tags=tags)
            for name in (*RECORDS, *(result.files if result is not None else ())):
                path = self._run.folder / name
                if path.is_file():
                    self._upload(path, MODEL_FOLDER if name in (MODEL, ONNX) else None)
            if result is not None and ONNX in result.files:
                self._describe_model()
            self._client.set_terminated(self._run_id, STATUSES[status])

    def _describe_model(self) -> None:
        """Upload what lets `mlflow.pyfunc.load_model` load the model.

        `mlflow.onnx` would write the same, but imports pandas first.
        """
        packages = [f"{name}=={metadata.version(name)}" for name in ("onnx", "onnxruntime")]
        onnx = {"data": ONNX, "onnx_version": metadata.version("onnx"), "providers": ["CPUExecutionProvider"]}
        loader = {"data": ONNX, "loader_module": "mlflow.onnx", "python_version": platform.python_version()}
        flavors = {"onnx": onnx, "python_function": loader}
        about = {"flavors": flavors, "run_id": self._run_id, "artifact_path": MODEL_FOLDER}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "MLmodel").write_text(json.dumps(about, indent=2), encoding="utf-8")  # JSON is YAML
            (folder / "requirements.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
            for path in folder.iterdir():
                self._upload(path, MODEL_FOLDER)

    def _upload(self, path: Path, folder: str | None) -> None:
        self._client.log_artifact(self._run_id, str(path), folder)

    def close(self) -> None:
        """Do nothing: a client holds no connection."""


def register(state: State, name: str, tags: Mapping[str, str]) -> ModelRef:
    """Register a recorded run's model.

    Returns the version that it has under this name, if any.
    """
    from mlflow.exceptions import MlflowException

    with naming_the_server(state.settings["uri"]):
        mlflow, run_id = client(state.settings["uri"]), state.place["run_id"]
        try:
            mlflow.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = mlflow.search_model_versions(f"name = '{name}'")
        versions = [int(model.version) for model in found if model.run_id == run_id]
        if versions:
            return ModelRef(name, min(versions), f"models:/{name}/{min(versions)}", is_new=False)
        source = f"{mlflow.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
        version = int(mlflow.create_model_version(name, source, run_id, dict(tags)).version)
        return ModelRef(name, version, f"models:/{name}/{version}", is_new=True)


@contextmanager
def naming_the_server(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into ServerError.

    It says where and why on one line.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - its libraries raise anything
        hint = "check that server, or choose another one with track.mlflow.uri"
        raise ServerError(f"{uri}: {_reason(error)}", hint) from without_secrets(error)


def _reason(error: BaseException) -> str:
    """Return why a request failed.

    Takes it from the bottom of MLflow's and its libraries' errors.
    """
    errors = [error]
    while (inner := errors[-1].__cause__ or errors[-1].__context__) is not None:
        errors.append(inner)
    if any("Timeout" in type(found).__name__ for found in errors):  # of requests or urllib3
        return f"no answer within {os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT']} s"
    causes = [found.strerror for found in errors if isinstance(found, OSError) and found.strerror]
    first = str(errors[-1]) or str(error)
    return causes[-1] if causes else textwrap.shorten(first, LONGEST_REASON, placeholder=" ...")


def client(uri: str) -> MlflowClient:
    """Return a client for the store at an address."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    whole = states.with_login(uri)
    return MlflowClient(tracking_uri=whole, registry_uri=whole)


def experiment(client: MlflowClient, name: str) -> str:
    """Return an experiment's id; create it if missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another process has created it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _view(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page.

    For a store without a server, returns the command that starts one.
    """
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"python -m mlflow server {shlex.join(('--backend-store-uri', uri))}"


def _batched(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), most):
        yield items[first : first + most]
