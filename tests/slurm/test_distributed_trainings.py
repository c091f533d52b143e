"""Trainings that several workers share, on a real Slurm: one result, whatever workers and nodes do."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers.processes import wait_for_line, wait_until

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import workers
from mnist_cnn.backends.remote.parallel import start_thread
from mnist_cnn.backends.slurm import script
from mnist_cnn.errors import DataError, RunCancelled

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from helpers.slurm_cluster import SlurmCluster

    from mnist_cnn.backend import Run
    from mnist_cnn.result import Result

JOB = (
    *("data.train_limit=600", "data.test_limit=200", "model=compact", "register.name=null"),
    *("train.batch_size=40", "train.shards=4", "train.threads=1", "train.epochs=12"),
)
SLURM = ("backend=slurm", "backend.cpus=1")
APART = 'backend.sbatch=["--ntasks-per-node=1"]'
SPREAD = 'backend.sbatch=["--spread-job"]'
BROKEN_WORKER = """#!/bin/bash
[ "$SLURM_PROCID" != 1 ] || set -- "${{@/#data/missing}}"
exec {python} "$@"
"""
"""A Python whose worker 1 does not find the data."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of one local process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return launch.submit("backend=local", *JOB, f"run_dir={folder}").wait()


def start(folder: Path, *overrides: str) -> Run:
    return launch.submit(*SLURM, *JOB, *overrides, f"run_dir={folder / 'run'}")


def worker(cluster: SlurmCluster, run: Run, rank: int) -> psutil.Process:
    """Return the process of one of a run's workers."""
    ours = {**cluster.environment, "SLURM_JOB_NAME": run_folder.read_receipt(run.folder).id}
    ours[workers.RANK] = str(rank)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            if all(variables.get(name) == value for name, value in ours.items()):
                return process
    pytest.fail(f"worker {rank} is not there")


def await_restart(cluster: SlurmCluster, run: Run, number: int) -> None:
    """Wait until a run trains again after it was started again so often; Slurm would wait for two minutes."""

    def has_happened() -> bool:
        name = run_folder.read_receipt(run.folder).id
        cluster.run("scontrol", "update", f"jobname={name}", "StartTime=now", check=False)
        return (run.folder / run_folder.LOG).read_text().count("resuming after epoch") == number

    wait_until(has_happened)


def next_job(cluster: SlurmCluster) -> int:
    """Return the id of the cluster's next job."""
    return 1 + max(map(int, cluster.run("squeue", "-h", "-t", "all", "-o", "%A").split()), default=0)


def test_two_workers_on_one_node_end_in_the_weights_of_one(
    slurm: SlurmCluster, alone: Result, tmp_path: Path
) -> None:
    """Although a program listens at worker 0's first port, and SIGTERM ends both after the same epoch."""
    job = next_job(slurm)
    with socket.create_server(("127.0.0.1", script.FIRST_PORT + script.PORTS * job % script.PORT_RANGE)):
        run = start(tmp_path, "backend.workers=2")
        name = run_folder.read_receipt(run.folder).id
        assert slurm.jobs(name) == [str(job)]
        following = start_thread(run.wait)
        wait_for_line(run.folder, " epoch 1/12 ")
    slurm.run("scancel", "--signal=TERM", "--batch", f"--name={name}")
    result = following.result(240)
    assert result.weights_sha256 == alone.weights_sha256
    assert result.job_digest == alone.job_digest
    names = {path.name for path in run.folder.iterdir()}
    assert {"model.keras", "model.onnx", "history.png", "metrics.jsonl", "result.json"} <= names
    log = (run.folder / run_folder.LOG).read_text()
    assert log.count("2 workers, 1 threads each") == 2
    assert log.count(" epoch 1/12 ") == log.count("resuming after epoch") == log.count(" weights ") == 1
    assert "stopped after epoch" in log


@pytest.mark.long
def test_a_run_outlives_a_killed_worker_a_lost_node_and_another_number_of_workers(
    slurm: SlurmCluster, alone: Result, tmp_path: Path
) -> None:
    run = start(tmp_path, "backend.workers=4", SPREAD)
    following: Future[Result] = start_thread(run.wait)
    wait_for_line(run.folder, "epoch 1/")
    assert "n[1-3]" in slurm.run("squeue", "--noheader", "--format=%N")
    worker(slurm, run, 3).kill()
    await_restart(slurm, run, 1)
    slurm.kill_node("n3")
    await_restart(slurm, run, 2)
    run.cancel()
    with pytest.raises(RunCancelled):
        following.result(60)
    result = launch.resume(str(run.folder), *SLURM, "backend.workers=2", APART).wait()
    assert result.weights_sha256 == alone.weights_sha256
    assert [row.epoch for row in result.history] == [row.epoch for row in alone.history]


@pytest.mark.usefixtures("slurm")
def test_the_error_of_any_worker_fails_the_run(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(BROKEN_WORKER.format(python=sys.executable))
    python.chmod(0o755)
    run = start(tmp_path, "backend.workers=2", APART, f"backend.python={python}")
    with pytest.raises(DataError, match=r"worker 1: .*missing"):
        run.wait()
    assert run.status() is Status.failed
