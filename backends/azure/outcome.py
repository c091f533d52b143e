"""What the service's answers about a run mean."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STATUSES = {
    **dict.fromkeys(("NotStarted", "Starting", "Queued", "Paused", "Unapproved"), Status.queued),
    **dict.fromkeys(("Provisioning", "Preparing"), Status.preparing),
    **dict.fromkeys(("Running", "NotResponding", "Pausing", "CancelRequested"), Status.running),
    "Finalizing": Status.finalizing,
    "Completed": Status.completed,
    "Failed": Status.failed,
    "Canceled": Status.cancelled,
}
"""States by the service's names.

Any other counts as running, and is reported.
"""
CANCELLING = "CancelRequested"
STREAMED = re.compile(r"user_logs/std_log(_process_0+)?\.txt|azureml-logs/70_driver_log(_0+)?\.txt")
"""The log of the trainer, or of worker 0.

The service offers it as a growing blob.
"""

PROCESS_ENDED = re.compile(r"Execution failed\. User process .+ exited with status code (-?\d+)")
"""Start of the error of a failed command.

SDK v2's runtime writes it; the log's end follows.
"""
SHELL_SIGNAL = 128
"""Added by a shell to a signal's number.

Python makes the number negative.
"""
SCRIPT_RAISED = "User program failed with "
"""Start of the SDK's error for a failed script."""
UPLOADED_TWICE = re.compile(r"Resource Conflict: .* already exists")
"""How the service refuses an already uploaded file.

An earlier node has uploaded it. That fails the run.
"""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
IMAGE_LOG = re.compile(r"azureml-logs/\d+_image_build_log\.txt")
IMAGE_ERROR = re.compile(r"^\W*(ERROR\b|\w+Error\b|ResolvePackageNotFound|ResolutionImpossible)")
PREPARING = "the service may be building the image, which takes 20 to 40 minutes"
"""What may happen before a run gets a node."""
PREEMPTED = re.compile(r"pre-?empt|evict", re.IGNORECASE)
NO_REASON = "the service gives no reason"
CLUSTER_PROPERTY = "_azureml.ClusterName"
"""The run's property that holds its cluster's name.

A name may contain any word, such as "preemptible".
"""


def has_node_log(urls: dict[str, str]) -> bool:
    """Return whether a run's logs include the node's.

    That log exists once the node has printed something.
    """
    return any(STREAMED.fullmatch(name) for name in urls)


def failure(details: dict[str, Any], workers: int = 1) -> dict[str, Any]:
    """Return an observation's fields for a failed run.

    If the script raised, the run's error is the script's, and only a warning has the service's: JSON within a
    string. The script's words never count as the service's. If one of several workers is killed, the service
    may end worker 0 before it can log that.
    """
    envelope = details.get("error") or {}
    body = envelope.get("error", envelope) if isinstance(envelope, dict) else {}
    text = filled(str(body.get("message") or ""), body.get("messageParameters") or {})
    reason = " ".join(text.split())[:500] or NO_REASON
    ended, has_raised = PROCESS_ENDED.search(reason), reason.startswith(SCRIPT_RAISED)
    is_own = ended is not None or has_raised
    said = _said(details, *(() if is_own else (text, *_messages(body))))
    if PREEMPTED.search(said):
        return {"error": f"the node was preempted: {reason}", "is_lost": True}
    if UPLOADED_TWICE.search(reason):
        again = "and the service could not start the run again (Resource Conflict)"
        return {"error": f"a node was lost while it uploaded the result, {again}"}
    has_trainer_failed = ended is not None or "JobFailed" in said
    is_killed = not 0 <= int(ended[1]) <= SHELL_SIGNAL if ended else has_trainer_failed and not has_raised
    if workers > 1 and is_killed:
        return {"error": f"a worker was killed, or its node has failed: {reason}", "is_lost": True}
    return {"error": f"the run failed in the service: {reason}", "has_trainer_failed": has_trainer_failed}


def filled(text: str, parameters: Mapping[str, Any]) -> str:
    """Fill the placeholders of a message from the service.

    The service sometimes sends them empty.
    """
    return PLACEHOLDER.sub(lambda name: str(parameters.get(name[1]) or f"{name[1]} (not given)"), text)


def image_log(details: dict[str, Any]) -> str | None:
    """Return the image build log's name, or None.

    None means that the build was not the cause.
    """
    found = IMAGE_LOG.search(str(details.get("error") or ""))
    return found.group() if found else None


def image_problem(log: str) -> str:
    """Return an image log's first error or last line."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if IMAGE_ERROR.search(line)]
    return next(iter(errors or lines[-1:]), "nothing")[:300]


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The cluster of a cancelled run.

    `evicted` and `working` are how many nodes are evicted, and how many are idle or run a job.
    """

    are_spot: bool
    max_nodes: int
    evicted: int = 0
    working: int = 0

    @property
    def has_lost_only_node(self) -> bool:
        """Whether the cluster's only node is evicted.

        The count of an earlier eviction may remain.
        """
        return self.are_spot and self.max_nodes == 1 and self.evicted > 0 and self.working == 0


def cancellation(
    details: dict[str, Any], nodes: Nodes, max_minutes: int, *, resubmit: bool
) -> dict[str, Any]:
    """Return an observation's fields for a cancelled run.

    On a cluster of one Spot node, the service also cancels a run whose node was evicted, and does not say so.
    Without details, no such run is submitted again: the next one may take as long.
    """
    if _minutes(details) >= max_minutes:
        return {"error": f"the service cancelled the run: backend.max_duration={max_minutes} minutes is over"}
    if "runId" not in details and not nodes.has_lost_only_node:  # they could not be read
        over = f"backend.max_duration={max_minutes} minutes may be over"
        return {"error": f"the run was cancelled, and the service does not say why; {over}"}
    if nodes.has_lost_only_node or (nodes.are_spot and PREEMPTED.search(_said(details))):
        return {"error": "the node was preempted: the service cancelled the run", "is_lost": True}
    outside = "the run was cancelled outside of this program"
    if nodes.are_spot:
        outside += ", by a user or by the eviction of its Spot node; the service reports both the same way"
        if not resubmit:
            outside += " (backend.resubmit_cancelled=true submits such a run again)"
    return {"error": outside, "is_lost": resubmit}


def _said(details: dict[str, Any], *texts: str) -> str:
    """Return the service's text on a run's end.

    That is its warnings, the run's properties and `texts`, without the names of run and cluster.
    """
    properties = details.get("properties") or {}
    names = (properties.get(CLUSTER_PROPERTY), details.get("target"), details.get("runId"))
    warnings = (str(warning.get("message")) for warning in details.get("warnings") or ())
    said = "\n".join((*warnings, str(properties), *texts))
    for name in filter(None, names):
        said = re.sub(rf"(?<![\w-]){re.escape(str(name))}(?![\w-])", "", said)
    return said


def _messages(error: Any) -> Iterator[str]:
    """Yield an error's codes and messages, including nested ones."""
    if isinstance(error, list):
        for inner in error:
            yield from _messages(inner)
    elif isinstance(error, dict):
        yield from (str(error.get(name)) for name in ("code", "message"))
        yield from _messages([error.get("innerError"), *(error.get("details") or ())])


def _minutes(details: dict[str, Any]) -> float:
    """Return a run's minutes, 0 if it never started."""
    try:
        start, end = (dt.datetime.fromisoformat(details[key]) for key in ("startTimeUtc", "endTimeUtc"))
    except (KeyError, TypeError, ValueError):
        return 0.0
    return (end - start).total_seconds() / 60
