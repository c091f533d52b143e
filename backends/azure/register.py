"""A run's model in the workspace's registry, once for each run and name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import ModelRef
from mnist_cnn.backends.azure.service import ServiceError, call, call_again
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from mnist_cnn.config import RegisterConfig
    from mnist_cnn.result import Result

MODEL = "outputs/model.keras"
RUN_TAG = "mnist_cnn_run"


def register(workspace: Any, run: Any, config: RegisterConfig, result: Result) -> ModelRef:
    """Register the model; the same run under the same name gives the version that it has.

    Raises:
        BackendError: the model is below `register.min_accuracy`, or the service refuses it.
    """
    if result.accuracy < config.min_accuracy:
        message = (
            f"not registered: test accuracy {result.accuracy:.4f} is below "
            f"register.min_accuracy={config.min_accuracy:g}"
        )
        raise BackendError(message, "train better, or lower register.min_accuracy")
    name = str(config.name)
    found = _registered(workspace, run.id, name)
    if found is not None:
        return _reference(found, is_new=False)
    tags = {
        RUN_TAG: run.id,
        "job_digest": result.job_digest,
        "accuracy": f"{result.accuracy:.6f}",
        "weights_sha256": result.weights_sha256,
    }
    try:
        model = call(
            f"register the model {name}",
            lambda: run.register_model(model_name=name, model_path=MODEL, tags=tags, properties=dict(tags)),
        )
    except ServiceError:
        model = _registered(workspace, run.id, name)  # the answer may have been lost, not the model
        if model is None:
            raise
    return _reference(model, is_new=True)


def _registered(workspace: Any, run_id: str, name: str) -> Any | None:
    """Return the version that a run has under a name; the oldest, if somebody made more."""

    def look() -> list[Any]:
        from azureml.core import Model

        return list(Model.list(workspace, name=name, tags=[[RUN_TAG, run_id]]))

    models = call_again(f"look for the model {name}", look)
    mine = [model for model in models if (model.tags or {}).get(RUN_TAG) == run_id and model.name == name]
    return min(mine, key=lambda model: int(model.version), default=None)


def _reference(model: Any, *, is_new: bool) -> ModelRef:
    return ModelRef(model.name, int(model.version), f"azureml:{model.id}", is_new=is_new)
