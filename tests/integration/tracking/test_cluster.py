"""A run on a cluster is tracked by the command that follows it."""

from __future__ import annotations

from pathlib import Path

from helpers.docs import file_in_docs
from helpers.job_service import JobService
from helpers.processes import TINY, run_successfully
from helpers.tracked_runs import as_float32, in_tensorboard

from mnist_cnn import run_folder
from mnist_cnn.tracking import state


def test_the_epochs_of_a_cluster_run_reach_the_tracker(tmp_path: Path) -> None:
    file = tmp_path / "http_backend.py"
    file.write_text(file_in_docs(file.name))
    (tmp_path / "service").mkdir()
    with JobService(tmp_path / "service") as service:
        cluster = (f"backend={file}:HttpBackend", f"backend.url={service.url}")
        ended = run_successfully(*TINY, *cluster, "track=tensorboard", "run_dir=runs/first", cwd=tmp_path)
    assert "\nsee it:      tensorboard --logdir runs\n" in ended.out
    assert state.read(tmp_path / "runs" / "first", "tensorboard").status == "completed"
    (row,) = run_folder.read_history(tmp_path / "runs" / "first")
    assert in_tensorboard(tmp_path / "runs" / "first", "val_loss") == [(1, as_float32(row.val_loss))]
