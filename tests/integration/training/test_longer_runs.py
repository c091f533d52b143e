"""A completed run that gets more epochs ends as a run that had them from the start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import SMALL, result_of, run_command, run_successfully

from mnist_cnn import launch
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training.train import train

if TYPE_CHECKING:
    from mnist_cnn.result import Result

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def measured(result: Result) -> tuple[object, ...]:
    rows = [(row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy) for row in result.history]
    return result.job_digest, result.weights_sha256, result.accuracy, result.saved_epoch, rows


@pytest.mark.usefixtures("keras")
def test_more_epochs_end_in_the_weights_of_a_training_from_scratch(tmp_path: Path, small_run: Path) -> None:
    before = {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()}
    run_successfully("resume", str(small_run), "train.epochs=3", "run_dir=longer", cwd=tmp_path)
    assert "resuming after epoch 2 of 3" in (tmp_path / "longer" / "log.txt").read_text()
    (tmp_path / "scratch").mkdir()
    scratch = train(launch.make_job(*SMALL, "save_h5=true", "train.epochs=3"), tmp_path / "scratch")
    assert measured(result_of(tmp_path / "longer")) == measured(scratch)
    assert {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()} == before


def test_the_command_line_says_what_can_be_changed(tmp_path: Path, small_run: Path) -> None:
    for override in ("train.epochs=2", "train.learning_rate=0.5", "run_dir=other"):
        refused = run_command("resume", str(small_run), override, cwd=tmp_path)
        assert refused.code == ConfigurationError.exit_code
    assert "resume does not take run_dir=other" in refused.err
    assert list(tmp_path.iterdir()) == []
