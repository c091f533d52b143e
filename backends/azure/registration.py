"""Registers a run's model once per run and name."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef
from mnist_cnn.backends.azure.calls import STUDIO, call, call_with_retries
from mnist_cnn.backends.azure.plan import MAX_TAG
from mnist_cnn.backends.remote.node import OUTPUTS
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnist_cnn.result import Result

MODEL = f"{OUTPUTS}/{run_folder.MODEL}"
RUN_TAG = "mnist_cnn_run"


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of one name, through one SDK.

    `find` returns the SDK's models, `create` adds one with these tags, `remove` deletes or archives one.
    """

    find: Callable[[], Iterable[Any]]
    create: Callable[[dict[str, str]], object]
    remove: Callable[[Any], object]


def register(run_id: str, name: str, result: Result, models: Models) -> ModelRef:
    """Register the run's model, or return its version.

    Raises BackendError.
    """
    find = partial(_registered, run_id, name, models.find)
    if found := find():
        return _reference(found[0], is_new=False)
    failure: ServiceError | None = None
    try:
        call(f"register the model {name}", partial(models.create, tags(run_id, result)))
    except ServiceError as error:  # the model may exist, because the answer may have been lost
        failure = error
    # If an answer is lost, SDK v1 repeats the request, and the service creates another version. Two commands
    # that register one run at the same time create two as well.
    first, *others = find() or [None]
    if first is None:
        raise failure or BackendError(f"the service does not list the model {name}", f"see {STUDIO}")
    for model in others:
        call_with_retries(f"remove version {model.version} of {name}", partial(models.remove, model))
    return _reference(first, is_new=True)


def tags(run_id: str, result: Result) -> dict[str, str]:
    """Return a model's tags. The first identifies the run."""
    found = {
        RUN_TAG: run_id,
        "job_digest": result.job_digest,
        "accuracy": f"{result.accuracy:.6f}",
        "weights_sha256": result.weights_sha256,
    }
    if result.changes:
        found["changes"] = "; ".join(result.changes)[:MAX_TAG]
    return found


def _registered(run_id: str, name: str, find: Callable[[], Iterable[Any]]) -> list[Any]:
    """Return the run's versions under a name, oldest first."""
    try:
        listed = call_with_retries(f"find the model {name}", lambda: list(find()))
    except ServiceError as error:
        if not error.is_not_found:
            raise
        return []  # SDK v2 expects this answer for a model without versions; it was never recorded
    mine = [model for model in listed if (model.tags or {}).get(RUN_TAG) == run_id and model.name == name]
    return sorted(mine, key=lambda model: int(model.version))


def _reference(model: Any, *, is_new: bool) -> ModelRef:
    return ModelRef(model.name, int(model.version), f"azureml:{model.name}:{model.version}", is_new=is_new)
