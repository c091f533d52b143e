"""What is submitted to the local backend, in tests that start no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mnist_cnn.backends.local import LocalBackend

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.job import Job

    Submitted = list[tuple[Job, Path]]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    """Every job and folder that the local backend got; it starts no process."""
    submitted: Submitted = []

    def submit(_: LocalBackend, job: Job, folder: Path) -> Any:
        submitted.append((job, folder))
        return folder

    monkeypatch.setattr(LocalBackend, "submit", submit)
    return submitted
