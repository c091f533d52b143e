"""The ways in which a start on a cluster fails, and the hints that several of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from pathlib import Path


class NodesRefused(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service can't provide such nodes, and would refuse them again."""


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
    return f"resume it: {command_line('resume', folder)}"


def follow_hint(folder: Path) -> str:
    """Return the hint for a run that is still running."""
    return f"watch it: {command_line('follow', folder)}; cancel it: {command_line('cancel', folder)}"


def status_hint(folder: Path) -> str:
    """Return the hint for a run whose state isn't known now."""
    return f"check it later: {command_line('status', folder)}; cancel it: {command_line('cancel', folder)}"


def resize_hint(folder: Path, setting: str) -> str:
    """Return the hint for a run for which the service has refused the nodes."""
    return f"start the run with another size: {command_line('resume', folder, setting)}"
