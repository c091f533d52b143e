"""What is said before the workers of a training start on this machine."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mnist_cnn import cpu, launch
from mnist_cnn.errors import BackendError
from mnist_cnn.training.distributed import local_group


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged. No worker can be started, and this machine has four CPUs."""

    def fail(*_: Any) -> None:
        raise BackendError("no worker starts here")

    monkeypatch.setattr(local_group, "_start", fail)
    monkeypatch.setattr(cpu, "count", lambda: 4)
    caplog.set_level(logging.INFO, "mnist_cnn")
    return caplog


@pytest.mark.parametrize(
    ("workers", "threads", "advice"),
    [
        (2, "2", None),
        (4, "1", None),
        (2, "3", "train.threads=2"),
        (8, "1", "train.threads=1"),
        (2, "null", "2"),
    ],
)
def test_more_threads_than_cpus_are_reported(
    log: pytest.LogCaptureFixture, workers: int, threads: str, advice: str | None
) -> None:
    job = launch.make_job("train.shards=8", f"train.threads={threads}")
    with pytest.raises(BackendError, match="no worker starts"), local_group.started(workers, job, ()):
        pytest.fail("it was started")
    warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    assert len(warnings) == (advice is not None)
    assert all(text.startswith("more threads than CPUs; train.threads=") for text in warnings)
    assert all(str(advice) in text for text in warnings)
