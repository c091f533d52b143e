"""Runs on a Slurm whose trainer is a few lines of bash, so that they need no TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from typing import TYPE_CHECKING, Any

from helpers.processes import wait_until

import mnist_cnn
from mnist_cnn.backends.remote.service import CHECKPOINTS, Handle, Observation
from mnist_cnn.backends.slurm import SlurmConfig, SlurmService
from mnist_cnn.backends.slurm.queue import queue_at
from mnist_cnn.backends.slurm.service import start_folder

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.slurm_cluster import SlurmCluster

    from mnist_cnn.backend import Status
    from mnist_cnn.backends.slurm.script import Request

SLEEP = "sleep 600"
ALL_NODES = "n1,n2,n3"
IN_PLACE = {CHECKPOINTS: "mnist-cnn-checkpoints/first"}


@dataclasses.dataclass(frozen=True)
class Started:
    """A run that was submitted."""

    service: SlurmService
    handle: Handle
    request: Request

    @property
    def folder(self) -> Path:
        """The folder of this start."""
        return start_folder(self.handle)

    def submit(self) -> str:
        """Submit the run, again if it was submitted before."""
        with self.service.prepare(self.handle, self.request):
            return self.service.start(self.handle, self.request, None)

    def find(self) -> Observation:
        """Return what Slurm says now; it must know the run."""
        queue_at(self.handle.place).forget()
        found = self.service.find(self.handle)
        assert found is not None
        return found

    def await_status(self, *expected: Status) -> Observation:
        """Wait for a status, and return what Slurm says."""
        wait_until(lambda: self.find().status in expected)
        return self.find()

    def await_trainer(self) -> None:
        """Wait until the trainer has printed its first line."""
        wait_until(lambda: b"trains" in (self.service.read_log(self.handle, 0) or b""))

    def log(self) -> str:
        return (self.service.read_log(self.handle, 0) or b"").decode()


class Submitter:
    """Submits runs to a cluster, each in a folder of its own."""

    def __init__(self, cluster: SlurmCluster, home: Path) -> None:
        self.cluster = cluster
        self._home = home
        self._count = 0

    def prepared(self, trainer: str = "true", **settings: Any) -> Started:
        """Return a run that was not submitted. It trains with lines of bash, unless `python` is set."""
        self._count += 1
        folder = self._home / f"run-{self._count}"
        folder.mkdir()
        program = self._home / f"trainer-{self._count}"
        program.write_text(f"#!/bin/bash\necho trains\n{trainer}\n")
        program.chmod(0o755)
        chosen: dict[str, Any] = {"cpus": 1, "max_duration": 300, "python": str(program)} | settings
        service = SlurmService(SlurmConfig(name="slurm", **chosen), self._home / "models")
        job = mnist_cnn.make_job(f"train.shards={service.config.workers}")
        request = service.request(job)
        return Started(service, Handle(folder, service.new_id(), service.place() | IN_PLACE), request)

    def start(self, trainer: str = "true", **settings: Any) -> Started:
        """Submit a run."""
        run = self.prepared(trainer, **settings)
        run.submit()
        return run

    def run(self, *words: str | bytes, script: str = f"#!/bin/bash\n{SLEEP}\n") -> str:
        """Return what sbatch prints for a script of another program."""
        environment = {**os.environ, **self.cluster.environment}
        ended = subprocess.run(
            ("/usr/bin/env", "sbatch", "--parsable", "--output=/dev/null", *words),
            input=script.encode(),
            env=environment,
            capture_output=True,
            check=True,
        )
        return ended.stdout.decode().strip()
