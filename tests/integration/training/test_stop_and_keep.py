"""A training that stops early, or saves its best epoch, is resumed and shared exactly."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import TINY, run_successfully

from mnist_cnn import launch, run_folder
from mnist_cnn.errors import ConfigurationError, RunCancelled
from mnist_cnn.training.checkpoint import Checkpoints
from mnist_cnn.training.train import train

if TYPE_CHECKING:
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

JOB = (
    *TINY, "data.validation=100", "train.epochs=9", "train.learning_rate=1", "train.shards=2",
    "train.keep=best", "train.stop_patience=3",
)  # fmt: skip
"""The validation loss of such a high learning rate rises again, so that the training stops early."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed training."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_successfully(*JOB, f"run_dir={folder}", cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def result(whole: Path) -> Result:
    result = run_folder.read_result(whole)
    assert result is not None
    losses = [row.val_loss for row in result.history]
    assert 1 < len(losses) < 9, "the job no longer stops early: choose another learning rate"
    return result


def test_it_stops_early_and_says_which_epoch_is_saved(whole: Path, result: Result) -> None:
    losses = [row.val_loss for row in result.history]
    assert result.saved_epoch == 1 + losses.index(min(losses)) == len(losses) - 3
    log = (whole / "log.txt").read_text()
    assert f"stopped after epoch {len(losses)} of 9: none since epoch {result.saved_epoch} was better" in log
    assert f"saved: epoch {result.saved_epoch}, which has the lowest validation loss" in log


def measured(result: Result) -> tuple[object, ...]:
    losses = [(row.loss, row.val_loss) for row in result.history]
    return result.weights_sha256, result.accuracy, result.loss, result.saved_epoch, losses


@pytest.mark.usefixtures("keras")
def test_the_saved_weights_are_those_of_a_training_that_ends_there(tmp_path: Path, result: Result) -> None:
    shorter = train(launch.make_job(*JOB[:-2], f"train.epochs={result.saved_epoch}"), tmp_path)
    assert shorter.weights_sha256 == result.weights_sha256
    assert shorter.accuracy == result.accuracy


@pytest.mark.usefixtures("keras")
def test_a_training_that_is_interrupted_after_every_epoch_ends_in_the_same(
    tmp_path: Path, whole: Path, result: Result
) -> None:
    job = run_folder.read_job(whole)
    for epochs in range(1, len(result.history)):
        with pytest.raises(RunCancelled):
            train(job, tmp_path, is_stopping=lambda: True)
        assert len(run_folder.read_history(tmp_path)) == epochs
    assert measured(train(job, tmp_path, is_stopping=lambda: True)) == measured(result)


@pytest.mark.usefixtures("keras")
def test_a_result_is_rebuilt_from_the_last_checkpoint_without_another_epoch(
    tmp_path: Path, whole: Path, result: Result
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=len(result.history))
    assert measured(train(run_folder.read_job(folder), folder)) == measured(result)


@pytest.mark.long
def test_several_workers_stop_at_the_same_epoch(tmp_path: Path, whole: Path, result: Result) -> None:
    run_successfully(*JOB, "backend.workers=2", "run_dir=run", cwd=tmp_path)
    shared = run_folder.read_result(tmp_path / "run")
    assert shared is not None
    assert measured(shared) == measured(result)
    rebuilt = interrupted_copy(whole, tmp_path / "rebuilt", after=len(result.history))
    run_successfully("resume", str(rebuilt), "backend.workers=2", cwd=tmp_path)
    shared = run_folder.read_result(rebuilt)
    assert shared is not None
    assert measured(shared) == measured(result)


@pytest.mark.usefixtures("keras")
def test_a_checkpoint_without_the_best_weights_cannot_be_made_to_save_them(
    tmp_path: Path, result: Result
) -> None:
    last: Job = launch.make_job(*JOB[:-2])
    ends = iter(row.epoch - 1 == result.saved_epoch for row in result.history)
    with contextlib.suppress(RunCancelled):
        train(last, tmp_path, is_stopping=lambda: next(ends))
    checkpoints = Checkpoints(tmp_path / run_folder.CHECKPOINTS)
    found = checkpoints.newest()
    assert found is not None
    assert found.kept == ()
    with pytest.raises(ConfigurationError, match=rf"lacks the weights of epoch {result.saved_epoch}"):
        train(launch.make_job(*JOB), tmp_path, force=True)


@pytest.mark.usefixtures("keras")
def test_the_last_epoch_is_saved_if_the_job_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mnist_cnn"):
        result = train(launch.make_job(*TINY, "train.epochs=2"), tmp_path)
    assert result.saved_epoch == 2
    assert "saved:" not in caplog.text
