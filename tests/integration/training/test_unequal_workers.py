"""Workers that compute different numbers refuse to train together, and say why. Each is a real process."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import Ended, end_of, start

from mnist_cnn import data, launch
from mnist_cnn.backends.remote import node, workers
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training.runtime import THREADS

if TYPE_CHECKING:
    import subprocess

HOST = "127.0.0.1"
MNIST = Path(next(iter(data.__path__))) / "mnist"
JOB = (
    "data.train_limit=600",
    "data.test_limit=100",
    "train.batch_size=300",
    "train.epochs=1",
    "train.shards=3",
    "model.filters=[16,16]",
)


def free_port() -> str:
    with socket.create_server((HOST, 0)) as free:
        return str(free.getsockname()[1])


def ends_of_nodes(home: Path, *environments: dict[str, str]) -> list[Ended]:
    """Let nodes with these variables share a job; return how they end."""
    shared = {workers.HOST: HOST, workers.PORTS: free_port(), workers.TOKEN: "secret of the run"}
    words = node.arguments(
        launch.make_job(*JOB), str(MNIST), str(home / "checkpoints"), device="cpu", workers=len(environments)
    )
    processes: list[subprocess.Popen[str]] = []
    for rank, environment in enumerate(environments):
        own = {**shared, workers.RANK: str(rank), **environment}
        processes.append(start(sys.executable, "-P", "-m", node.__name__, *words, cwd=home, **own))
    return [end_of(process) for process in processes]


def test_workers_that_compute_other_numbers_are_refused_by_all(tmp_path: Path) -> None:
    one = {THREADS: "1"}
    first, *others = ends_of_nodes(tmp_path, one, {THREADS: "4"}, {**one, "ONEDNN_MAX_CPU_ISA": "SSE41"})

    assert f'"exit_code": {ConfigurationError.exit_code}' in first.out
    for end in (first, *others):
        assert "not all workers would end in the weights of worker 0. Worker 1: the numbers" in end.out
        assert "; threads 4 (worker 0: 1); " in end.out
        assert ". Worker 2: the numbers" in end.out
        assert "ONEDNN_MAX_CPU_ISA=SSE41 (worker 0: not set)" in end.out
    assert not (tmp_path / "outputs" / "result.json").exists()
