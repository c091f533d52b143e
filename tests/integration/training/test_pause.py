"""A run that pauses after an epoch, as `pause_after` asks, and continues later."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import TINY, Ended, result_of, run_command, run_successfully

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError, RunPaused
from mnist_cnn.training import saving, train
from mnist_cnn.training.checkpoint import Checkpoints, MountedCheckpoints

if TYPE_CHECKING:
    from mnist_cnn.config import DataConfig
    from mnist_cnn.data.datasets import DataSet

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

JOB = (*TINY, "train.epochs=4", "train.schedule=one_cycle", "train.checkpoint_every=4")


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run of four epochs that is paused after the second, and what its command printed."""
    home = tmp_path_factory.mktemp("paused")
    return home / "run", run_command(*JOB, "pause_after=2", "run_dir=run", cwd=home)


def test_a_pause_has_its_own_status_and_exit_code(paused: tuple[Path, Ended]) -> None:
    folder, ended = paused
    assert ended.code == RunPaused.exit_code == 7
    assert ended.err.splitlines()[0] == "paused after epoch 2 of 4 (pause_after)"
    assert "continue it: python -m mnist_cnn resume run" in ended.err
    assert run_folder.read_receipt(folder).status is Status.paused
    assert not (folder / run_folder.RESULT).exists()
    listed = run_successfully("list", f"runs_dir={folder.parent}", cwd=folder.parent)
    assert "paused" in listed.out


@pytest.mark.usefixtures("keras")
def test_pauses_change_no_weight(paused: tuple[Path, Ended], tmp_path: Path) -> None:
    """One_cycle knows its total from the job, so the schedule isn't shortened."""
    folder, home = tmp_path / "run", tmp_path
    shutil.copytree(paused[0], folder)
    again = run_command("resume", "run", "pause_after=2", cwd=home)
    assert again.code == ConfigurationError.exit_code
    assert "pause_after=2: the run has trained 2 epochs of 4" in again.err
    assert run_command("resume", "run", "pause_after=3", cwd=home).code == RunPaused.exit_code
    run_successfully("resume", "run", cwd=home)
    (tmp_path / "whole").mkdir()
    assert (folder / run_folder.LOG).read_text().count("x_train (") == 1
    result, whole = result_of(folder), train.train(launch.make_job(*JOB), tmp_path / "whole")
    assert result.weights_sha256 == whole.weights_sha256
    assert [row.learning_rate for row in result.history] == [row.learning_rate for row in whole.history]


@pytest.mark.usefixtures("keras")
def test_a_run_that_pauses_after_its_last_epoch_needs_no_test_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = datasets.load

    def without_test_images(config: DataConfig) -> DataSet:
        arrays = load(config)
        return dataclasses.replace(arrays, x_test=arrays.x_test[:0], y_test=arrays.y_test[:0])

    monkeypatch.setattr(datasets, "load", without_test_images)
    monkeypatch.setattr(saving, "evaluate", lambda *_: pytest.fail("the test set was evaluated"))
    with pytest.raises(RunPaused, match="after epoch 1 of 1"):
        train.train(launch.make_job(*TINY, "data.validation=50"), tmp_path, pause_after=1)
    found = Checkpoints(tmp_path / run_folder.CHECKPOINTS).newest()
    assert found is not None
    assert len(found.history) == 1


def test_a_pause_is_not_part_of_the_job() -> None:
    assert launch.make_job(*JOB, "pause_after=1") == launch.make_job(*JOB)


def test_a_pause_after_an_epoch_that_the_job_does_not_have_is_refused(tmp_path: Path) -> None:
    for command in ("train", "plan"):
        refused = run_command(command, "train.epochs=2", "pause_after=3", cwd=tmp_path)
        assert refused.code == ConfigurationError.exit_code
        assert "pause_after=3: the job has 2 epochs" in refused.err
    assert not (tmp_path / "runs").exists()


def test_a_pause_without_its_checkpoint_is_an_error(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("a file, where a folder should be", encoding="utf-8")
    job = launch.make_job(*TINY)
    with pytest.raises(BackendError, match="not paused: the checkpoint of epoch 1 of 1 could not be saved"):
        train.train(job, tmp_path, checkpoints=MountedCheckpoints(store), pause_after=1)
