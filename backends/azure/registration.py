"""What is registered of a run, whichever SDK does it: the file and the tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.backends.azure.plan import MAX_TAG

if TYPE_CHECKING:
    from mnist_cnn.result import Result

MODEL = "outputs/model.keras"
RUN_TAG = "mnist_cnn_run"


def tags(run_id: str, result: Result) -> dict[str, str]:
    """Return the tags of a run's model; the first one finds it again."""
    found = {
        RUN_TAG: run_id,
        "job_digest": result.job_digest,
        "accuracy": f"{result.accuracy:.6f}",
        "weights_sha256": result.weights_sha256,
    }
    if result.changes:
        found["changes"] = "; ".join(result.changes)[:MAX_TAG]
    return found
