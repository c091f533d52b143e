"""A run on a cluster is tracked by the command that follows it."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import requests
from helpers.docs import file_in_docs
from helpers.job_service import JobService
from helpers.mlflow_server import free_port, serving
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
    (shown,) = re.findall(r"see it: +(python -m tensorboard.main --logdir runs)\n", ended.out)
    url = f"http://127.0.0.1:{(port := free_port())}"
    with serving([*shlex.split(shown), "--port", str(port)], tmp_path, url):
        while (runs := requests.get(f"{url}/data/runs", timeout=10).json()) == []:  # it reads them meanwhile
            time.sleep(0.1)
    assert runs == ["first/tensorboard"]
    assert state.read(tmp_path / "runs" / "first", "tensorboard").status == "completed"
    (row,) = run_folder.read_history(tmp_path / "runs" / "first")
    assert in_tensorboard(tmp_path / "runs" / "first", "val_loss") == [(1, as_float32(row.val_loss))]
