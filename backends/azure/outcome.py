"""What the service's answers about a run mean: its states, the names of its logs, why it failed."""

from __future__ import annotations

import re
from typing import Any

from mnist_cnn.backend import Status

STATUSES = {
    **dict.fromkeys(("NotStarted", "Starting", "Queued", "Paused", "Unapproved"), Status.queued),
    **dict.fromkeys(("Provisioning", "Preparing"), Status.preparing),
    **dict.fromkeys(("Running", "NotResponding", "Pausing", "CancelRequested"), Status.running),
    "Finalizing": Status.finalizing,
    "Completed": Status.completed,
    "Failed": Status.failed,
    "Canceled": Status.cancelled,
}
"""The service's state names. Any other counts as running, and is reported."""
CANCELLING = "CancelRequested"
STREAMED = re.compile(r"user_logs/std_log[^/]*\.txt|azureml-logs/70_driver_log[^/]*\.txt")
"""The logs of a node. The service offers each as a growing blob."""

PROCESS_ENDED = re.compile(r"Execution failed\. User process .+ exited with status code \d+")
"""How the runtime of SDK v2's jobs starts the error of a command that failed; the log's end follows."""
SCRIPT_RAISED = "User program failed with "
"""How the SDK, on the node, starts the error of a script that raised."""
PREEMPTED = re.compile(r"pre-?empt|evict", re.IGNORECASE)


def has_node_log(urls: dict[str, str]) -> bool:
    """Return whether a run's logs include the node's, which exists once the node has printed something."""
    return any(STREAMED.fullmatch(name) for name in urls)


def failure(details: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an observation that say why the run failed.

    If the script raised, the run's error is the script's own, and only a warning has the service's: JSON
    within a string. The script's own words never count as the service's.
    """
    envelope = details.get("error") or {}
    body = envelope.get("error", envelope) if isinstance(envelope, dict) else {}
    reason = " ".join(str(body.get("message") or "the service gives no reason").split())[:500]
    said = [str(warning.get("message")) for warning in details.get("warnings") or []]
    has_ended = PROCESS_ENDED.search(reason) is not None
    if not has_ended and not reason.startswith(SCRIPT_RAISED):
        said.append(str(body))
    if any(PREEMPTED.search(text) for text in said):
        return {"error": f"the node was preempted: {reason}", "is_lost": True}
    has_trainer_failed = has_ended or any("JobFailed" in text for text in said)
    return {"error": f"the run failed in the service: {reason}", "has_trainer_failed": has_trainer_failed}
