"""Resuming a completed run with more epochs, as far as it starts no training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.copies import change_receipt
from helpers.processes import SMALL
from helpers.records import ROW, write_result

import mnist_cnn
from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoints
from mnist_cnn.training.runtime import Runtime, versions

if TYPE_CHECKING:
    from helpers.submissions import Submitted


@pytest.fixture
def completed(tmp_path: Path) -> Path:
    """A completed run of the job SMALL, with the checkpoint of its last epoch, as a node wrote it."""
    folder, job = tmp_path / "run", mnist_cnn.make_job(*SMALL)
    write_result(folder)
    run_folder.write_job(folder, job)
    there = dataclasses.replace(job, data=dataclasses.replace(job.data, dir="/the/nodes/data"))
    rows = (ROW, dataclasses.replace(ROW, epoch=2))
    here = Runtime("float32", "cpu", "x86_64", 2, {})
    saved = checkpoint.Checkpoint(there, here, rows, (), checkpoint.generators())
    Checkpoints(folder / run_folder.CHECKPOINTS).save(saved)
    return folder


def test_a_completed_run_continues_as_a_new_run(
    completed: Path, submitted: Submitted, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in completed.rglob("*") if path.is_file()}
    mnist_cnn.resume(str(completed), "train.epochs=5", f"runs_dir={tmp_path / 'runs'}")
    ((job, folder),) = submitted
    assert job == mnist_cnn.make_job(*SMALL, "train.epochs=5") == run_folder.read_job(folder)
    assert folder.parent == tmp_path / "runs"
    found = Checkpoints(folder / run_folder.CHECKPOINTS).newest()
    assert found is not None
    assert (found.job, len(found.history)) == (job, 2)
    assert {path: path.read_bytes() for path in completed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate=0.5", "resume does not take train.learning_rate=0.5"),
        ("seed=1", "resume does not take seed=1"),
        ("model=compact", "resume does not take model=compact"),
        ("data.train_limit=7", "resume does not take data.train_limit=7"),
        ("train.epochs=2", "train.epochs=2 cannot continue this run: the run has 2 epochs already"),
    ],
)
def test_nothing_else_of_the_job_can_be_changed(
    completed: Path, submitted: Submitted, override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        mnist_cnn.resume(str(completed), "train.epochs=5", override, f"runs_dir={tmp_path / 'runs'}")
    assert refused.value.message == message
    assert submitted == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("pause_after", "message"),
    [
        (2, "pause_after=2: the run has trained 2 epochs of 5"),
        (6, "pause_after=6: the job has 5 epochs"),
        (3, None),
        (5, None),
    ],
)
def test_it_can_pause_only_after_an_epoch_that_it_still_has_to_train(
    completed: Path, submitted: Submitted, tmp_path: Path, pause_after: int, message: str | None
) -> None:
    longer = ("train.epochs=5", f"pause_after={pause_after}", f"runs_dir={tmp_path / 'runs'}")
    if message is None:
        mnist_cnn.resume(str(completed), *longer)
        assert len(submitted) == 1
        return
    with pytest.raises(ConfigurationError) as refused:
        mnist_cnn.resume(str(completed), *longer)
    assert refused.value.message == message
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_complete_is_completed_first(completed: Path, submitted: Submitted) -> None:
    (completed / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"continues a completed run; .*run is damaged"):
        mnist_cnn.resume(str(completed), "train.epochs=5")
    change_receipt(completed, status=Status.cancelled)
    with pytest.raises(ConfigurationError, match=r"continues a completed run; .*run is cancelled"):
        mnist_cnn.resume(str(completed), "train.epochs=5")
    assert submitted == []


def test_a_run_without_its_last_checkpoint_is_refused(completed: Path, submitted: Submitted) -> None:
    (completed / "checkpoints" / "epoch-000002.npz").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="has no intact checkpoint of its last epoch"):
        mnist_cnn.resume(str(completed), "train.epochs=5")
    assert submitted == []


def test_other_packages_need_force(completed: Path, submitted: Submitted, tmp_path: Path) -> None:
    change_receipt(completed, versions={**versions(), "keras": "3.0.0"})
    longer = ("train.epochs=5", f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(ConfigurationError, match=r"keras \S+ \(was 3\.0\.0\)\n.*train\.epochs=5 force=true"):
        mnist_cnn.resume(str(completed), *longer)
    mnist_cnn.resume(str(completed), *longer, "force=true")
    assert len(submitted) == 1


@pytest.mark.parametrize(
    ("pause_after", "reason"), [(2, "the run has trained 2 epochs of 5"), (3, None), (4, None)]
)
def test_a_resumed_run_can_pause_after_an_epoch_that_it_trains_again(
    completed: Path, submitted: Submitted, pause_after: int, reason: str | None
) -> None:
    """The run had trained four epochs; its newest checkpoint is of the second."""
    epochs = 5
    job = mnist_cnn.make_job(*SMALL, f"train.epochs={epochs}")
    run_folder.write_job(completed, job)
    run_folder.write_history(completed, [dataclasses.replace(ROW, epoch=epoch) for epoch in range(1, epochs)])
    (completed / run_folder.RESULT).unlink()
    change_receipt(completed, status=Status.lost)
    resume = (str(completed), f"pause_after={pause_after}", "force=true")
    if reason is not None:
        with pytest.raises(ConfigurationError, match=reason):
            mnist_cnn.resume(*resume)
    else:
        mnist_cnn.resume(*resume)
    assert len(submitted) == (0 if reason else 1)
