"""Registers a run's model in the workspace, once for each run and name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import ModelRef
from mnist_cnn.backends.azure import registration
from mnist_cnn.backends.azure.calls import call, call_with_retries
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.v2.sdk import Workspace
    from mnist_cnn.result import Result


def register(workspace: Workspace, run_id: str, name: str, result: Result) -> ModelRef:
    """Register the model, or return the run's version under this name. Raises BackendError.

    The client chooses the version, so a repeated request creates no second one.
    """
    from azure.ai.ml.entities import Model

    if found := _registered(workspace, run_id, name):
        return _reference(found[0], is_new=False)
    tags = registration.tags(run_id, result)
    path = f"azureml://jobs/{run_id}/outputs/artifacts/paths/{registration.MODEL}"
    model = Model(name=name, path=path, type="custom_model", tags=tags, properties=dict(tags))
    what = f"register the model {name}"
    try:
        return _reference(call(what, partial(workspace.client.models.create_or_update, model)), is_new=True)
    except ServiceError:  # the model may exist, because the answer may have been lost
        if found := _registered(workspace, run_id, name):
            return _reference(found[0], is_new=True)
        raise


def _registered(workspace: Workspace, run_id: str, name: str) -> list[Any]:
    """Return the run's versions under a name, oldest first."""
    models = call_with_retries(f"find the model {name}", lambda: list(workspace.client.models.list(name)))
    mine = [model for model in models if (model.tags or {}).get(registration.RUN_TAG) == run_id]
    return sorted(mine, key=lambda model: int(model.version))


def _reference(model: Any, *, is_new: bool) -> ModelRef:
    return ModelRef(model.name, int(model.version), f"azureml:{model.name}:{model.version}", is_new=is_new)
