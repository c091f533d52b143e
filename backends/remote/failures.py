"""Errors of a start on a cluster, and hints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from pathlib import Path


class NodesRefused(BackendError):  # noqa: N818 - it is an outcome that ends a run
    """The service can't provide such nodes, now or later."""


class StartedButUnrecorded(BackendError):  # noqa: N818 - as above
    """The run started, but the receipt wasn't written."""


class Superseded(BackendError):  # noqa: N818 - as above
    """Another process submits the run."""


class SubmissionUnknown(ServiceError):  # noqa: N818 - as above
    """The submission failed, but the run may have started.

    If the call was abandoned, the service may still start the run: it must not be submitted again.
    """

    @property
    def is_transient(self) -> bool:
        return super().is_transient and not self.is_abandoned


def resume_hint(folder: Path) -> str:
    return f"resume it: {command_line('resume', folder)}"


def follow_hint(folder: Path) -> str:
    """Return the hint for a running run."""
    return f"watch it: {command_line('follow', folder)}; cancel it: {command_line('cancel', folder)}"


def status_hint(folder: Path) -> str:
    """Return the hint for a run in unknown state."""
    return f"check it later: {command_line('status', folder)}; cancel it: {command_line('cancel', folder)}"


def resize_hint(folder: Path, setting: str) -> str:
    """Return the hint for a run with refused nodes."""
    return f"start the run with another size: {command_line('resume', folder, setting)}"
