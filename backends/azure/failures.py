"""How a run fails in the service: what that means for the run, and its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import log
from mnist_cnn.backends.azure.service import RETRIED, ServiceError
from mnist_cnn.errors import BackendError, MnistCnnError, TrainingError

if TYPE_CHECKING:
    from pathlib import Path


class Preempted(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service has ended the run because it took its node away."""


class StartedButUnrecorded(BackendError):  # noqa: N818 - as above
    """The run has started, but the disk here does not take what the service said of it."""


class Superseded(BackendError):  # noqa: N818 - as above
    """Another process submits the run, so that this one does not."""


class SubmissionUnknown(ServiceError):  # noqa: N818 - as above
    """The submission failed, and whether the run started all the same could not be found out."""


def is_passing(error: BaseException) -> bool:
    """Tell whether what failed may succeed in a while: the service was busy or away.

    A submission that nobody waits for any more may yet be carried out, and is not made again.
    """
    if isinstance(error, SubmissionUnknown) and error.is_given_up:
        return False
    return isinstance(error, ServiceError) and (error.status is None or error.status in RETRIED)


def of_run(folder: Path, details: dict[str, Any]) -> MnistCnnError:
    """Word a failed run: as the trainer did in the log, else as the service does in the run's details."""
    told = log.failure(folder)
    if told is not None:
        return told
    envelope = details.get("error") or {}
    error = envelope.get("error", envelope) if isinstance(envelope, dict) else {}
    said = " ".join(str(error.get("message") or "the service gives no reason").split())[:500]
    preempted = "preempt" in said.lower() or "pre-empt" in said.lower()
    if preempted:
        return Preempted(f"the node was taken away: {said}", f"go on with it: resume {folder}")
    has_failed_itself = "JobFailed" in str(error) and log.has_begun(folder)
    kind = TrainingError if has_failed_itself else BackendError
    return kind(f"the run failed in the service: {said}", f"start it again: resume {folder}")
