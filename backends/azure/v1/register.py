"""Registers a run's model in the workspace, once for each run and name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import ModelRef
from mnist_cnn.backends.azure import registration
from mnist_cnn.backends.azure.calls import call, call_with_retries
from mnist_cnn.backends.azure.registration import MODEL, RUN_TAG
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from mnist_cnn.result import Result

STUDIO = "https://ml.azure.com"


def register(workspace: Any, run: Any, name: str, result: Result) -> ModelRef:
    """Register the model, or return the run's version under this name. Raises BackendError."""
    found = _registered(workspace, run.id, name)
    if found:
        return _reference(found[0], is_new=False)
    tags = registration.tags(run.id, result)
    settings = {"model_name": name, "model_path": MODEL, "tags": tags, "properties": dict(tags)}
    failure: ServiceError | None = None
    try:
        call(f"register the model {name}", partial(run.register_model, **settings))
    except ServiceError as error:  # the model may exist, because the answer may have been lost
        failure = error
    # If an answer is lost, the SDK repeats the request, and the service creates another version.
    first, *others = _registered(workspace, run.id, name) or [None]
    if first is None:
        raise failure or BackendError(f"the service does not list the model {name}", f"see {STUDIO}")
    for model in others:
        call_with_retries(f"delete version {model.version} of {name}, a duplicate", model.delete)
    return _reference(first, is_new=True)


def _registered(workspace: Any, run_id: str, name: str) -> list[Any]:
    """Return the run's versions under a name, oldest first."""
    from azureml.core import Model

    list_models = partial(Model.list, workspace, name=name, tags=[[RUN_TAG, run_id]])
    models = call_with_retries(f"find the model {name}", list_models)
    mine = [model for model in models if (model.tags or {}).get(RUN_TAG) == run_id and model.name == name]
    return sorted(mine, key=lambda model: int(model.version))


def _reference(model: Any, *, is_new: bool) -> ModelRef:
    return ModelRef(model.name, int(model.version), f"azureml:{model.id}", is_new=is_new)
