"""The training process, with a training that does nothing or fails."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers.records import write_receipt

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import RunCancelled, TrainingError
from mnist_cnn.training import worker


class ResourceExhaustedError(Exception):
    """Has the name of TensorFlow's error."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose receipt names this process; its signals and its log are restored."""
    run_folder.write_job(tmp_path, launch.make_job())
    write_receipt(tmp_path, Status.preparing, pid=os.getpid())
    before = signal.getsignal(signal.SIGTERM)
    log = logging.getLogger("mnist_cnn")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


def terminate_self(*_arguments: object, **_options: object) -> None:
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_during_the_training_cancels_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "train", terminate_self)
    assert worker.main([str(folder)]) == RunCancelled.exit_code
    assert run_folder.read_receipt(folder).status is Status.cancelled


def test_sigterm_after_the_result_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "train", Mock())
    monkeypatch.setattr(run_folder, "check_still_ours", terminate_self)
    assert worker.main([str(folder)]) == 0
    assert run_folder.read_receipt(folder).status is Status.completed


def test_the_device_and_force_reach_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Mock()
    monkeypatch.setattr(worker, "train", train)
    assert worker.main([str(folder), "--device", "gpu", "--force"]) == 0
    assert (train.call_args.kwargs["device"], train.call_args.kwargs["force"]) == ("gpu", True)


@pytest.mark.parametrize(
    ("raised", "message", "hint"),
    [
        (MemoryError(), "the machine has too little memory", "lower train.batch_size, or use a machine"),
        (ResourceExhaustedError("OOM when allocating"), "the device has too little memory", "network's size"),
    ],
)
def test_too_little_memory_is_no_bug(raised: Exception, message: str, hint: str) -> None:
    with pytest.raises(TrainingError) as error, worker.translated_errors():
        raise raised
    assert message in error.value.message
    assert hint in error.value.hint
