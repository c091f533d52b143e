"""The ways in which a run on the cluster fails, and the hints that several of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import log
from mnist_cnn.backends.azure.service import ServiceError
from mnist_cnn.errors import BackendError, MnistCnnError, TrainingError, command_on

if TYPE_CHECKING:
    from pathlib import Path


class Preempted(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service took the run's node away."""


class ClusterRefused(BackendError):  # noqa: N818 - as above
    """The service can't create a cluster of these nodes, and would refuse them again."""


class StartedButUnrecorded(BackendError):  # noqa: N818 - as above
    """The run has started, but the receipt could not be written."""


class Superseded(BackendError):  # noqa: N818 - as above
    """Another process submits the run, so this one must not."""


class SubmissionUnknown(ServiceError):  # noqa: N818 - as above
    """The submission failed, and it is not known whether the run has started.

    If the call was abandoned, the service may still start the run: it must not be submitted again.
    """

    @property
    def is_transient(self) -> bool:
        return super().is_transient and not self.is_abandoned


def resume_hint(folder: Path) -> str:
    return f"resume it: {command_on('resume', folder)}"


def follow_hint(folder: Path) -> str:
    """Return the hint for a run that is still running."""
    return f"watch it: {command_on('follow', folder)}; cancel it: {command_on('cancel', folder)}"


def status_hint(folder: Path) -> str:
    """Return the hint for a run whose state isn't known now."""
    return f"check it later: {command_on('status', folder)}; cancel it: {command_on('cancel', folder)}"


def of_run(folder: Path, details: dict[str, Any]) -> MnistCnnError:
    """Return the error of a failed run: the trainer's from the log, or else the service's."""
    if (error := log.failure(folder)) is not None:
        return error
    envelope = details.get("error") or {}
    body = envelope.get("error", envelope) if isinstance(envelope, dict) else {}
    reason = " ".join(str(body.get("message") or "the service gives no reason").split())[:500]
    if "preempt" in reason.lower() or "pre-empt" in reason.lower():
        return Preempted(f"the node was preempted: {reason}", resume_hint(folder))
    has_training_failed = "JobFailed" in str(body) and log.has_training_started(folder)
    kind = TrainingError if has_training_failed else BackendError
    return kind(f"the run failed in the service: {reason}", resume_hint(folder))
