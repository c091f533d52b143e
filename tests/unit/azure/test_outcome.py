"""What the service's answers about a failed run mean: a table of answers that were seen."""

from __future__ import annotations

from typing import Any

import pytest
from loopback import run_errors

from mnist_cnn.backends.azure.outcome import failure

RAISED = {"error": {"code": "UserError", "message": "User program failed with E: evicted, JobFailed"}}
PREEMPTED = "AzureMLCompute job failed. PreemptionError: Nodes of this job got pre-empted. Reason: ..."
EVICTED = "The node was evicted."


def of_service(message: str) -> dict[str, Any]:
    return {"error": run_errors.of_service(message)}


@pytest.mark.parametrize(
    ("details", "is_lost", "has_trainer_failed"),
    [
        ({"error": RAISED}, False, False),
        ({"error": RAISED, "warnings": [run_errors.secondary_warning()]}, False, True),
        ({"error": RAISED, "warnings": [{"source": "SecondaryError", "message": PREEMPTED}]}, True, False),
        ({"error": run_errors.job_failed()}, False, True),
        ({"error": run_errors.user_process("python x.py", 3, "it was evicted")}, False, True),
        (of_service(PREEMPTED), True, False),
        (of_service(EVICTED), True, False),
        ({"error": run_errors.image_build()}, False, False),
        ({"error": None, "warnings": None}, False, False),
        ({}, False, False),
    ],
    ids=[
        "raised", "raised-and-warned", "raised-as-the-node-was-taken", "silent", "v2-ended",
        "preempted", "evicted", "image", "null", "absent",
    ],
)  # fmt: skip
def test_why_a_run_failed(details: dict[str, Any], *, is_lost: bool, has_trainer_failed: bool) -> None:
    found = failure(details)
    assert found.get("is_lost", False) is is_lost
    assert found.get("has_trainer_failed", False) is has_trainer_failed
    assert "None" not in found["error"]
