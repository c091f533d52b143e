"""A run on a real Slurm that starts from weights, is recorded by trackers, and gets more epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.mlflow_server import mlflow_server
from helpers.processes import SMALL, result_of, run_successfully, start_command, wait_until
from helpers.tracked_runs import as_float32, in_mlflow, in_tensorboard

from mnist_cnn import launch
from mnist_cnn.tracking import state

if TYPE_CHECKING:
    from pathlib import Path

CHOSEN = ("backend=slurm", "backend.cpus=2", "register.name=null")


@pytest.mark.long
@pytest.mark.usefixtures("slurm")
def test_a_tracked_run_from_weights_gets_more_epochs(small_run: Path, tmp_path: Path) -> None:
    job, folder = (*SMALL, "seed=1", f"train.init={small_run}"), tmp_path / "run"
    with mlflow_server(tmp_path) as server:
        track = ("track=[mlflow,tensorboard]", f"track.mlflow.uri={server}")
        command = start_command(*job, *CHOSEN, *track, "run_dir=run", cwd=tmp_path)
        wait_until(lambda: "mlflow" in state.chosen(folder) and state.read(folder, "mlflow").epochs, command)
        command.kill()
        command.communicate()
        run_successfully("follow", "run", cwd=tmp_path)
        rows = result_of(folder).history
        assert in_mlflow(server, folder, "loss") == [(row.epoch, row.loss) for row in rows]
    assert in_tensorboard(folder, "loss") == [(row.epoch, as_float32(row.loss)) for row in rows]
    run_successfully("resume", "run", "train.epochs=3", *CHOSEN, "run_dir=longer", cwd=tmp_path)
    scratch = launch.submit(*job, "train.epochs=3", f"run_dir={tmp_path / 'scratch'}").wait()
    longer = result_of(tmp_path / "longer")
    assert (longer.job_digest, longer.weights_sha256) == (scratch.job_digest, scratch.weights_sha256)
