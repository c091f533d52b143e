"""`backend=slurm` keeps the contract of remote services, on a real Slurm whose nodes really die."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import SMALL

from mnist_cnn.backends.remote.node import OUTPUTS
from mnist_cnn.backends.remote.parallel import start_thread
from mnist_cnn.testing import RemoteContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.slurm_cluster import SlurmCluster

SECONDS = 120.0
PROGRAM = """#!/bin/bash
if [ -e {flag} ] && [ "$(head -c 1 {flag})" != 0 ]; then
    count=$(($(cat {flag}) - 1)); echo $count > {flag}
    {act}
    exit 1
fi
exec {real} "$@"
"""
"""Stands before a program of Slurm's, and fails as often as the flag's file says."""
LOSE_RESPONSE = '{real} "$@" > /dev/null; echo "{name}: error: Socket timed out on send/recv operation" >&2'
FAIL = 'echo "{name}: error: Unable to contact slurm controller (connect failure)" >&2'


class SlurmFaults:
    """Injects faults into a cluster: kills nodes, and fails two programs as if the controller were down."""

    def __init__(self, slurm: SlurmCluster, programs: Path) -> None:
        self._slurm = slurm
        self._programs = programs
        self._losing: list[Future[None]] = []
        for name, act in (("sbatch", LOSE_RESPONSE), ("squeue", FAIL)):
            real = shutil.which(name)
            text = PROGRAM.format(flag=self._flag(name), act=act.format(real=real, name=name), real=real)
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    def starts(self) -> list[str]:
        return self._slurm.run("squeue", "-h", "-t", "all", "-S", "i", "-o", "%j").split()

    def lose_next_response(self) -> None:
        self._flag("sbatch").write_text("1")

    def fail_next_polls(self, polls: int) -> None:
        self._flag("squeue").write_text(str(polls))

    def lose_next_node(self, line: str, *, requeues: bool) -> None:
        before = set(self._jobs())

        def lose() -> None:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                for job in set(self._jobs()) - before:
                    log = self._start_folder(job) / "log-0.txt"
                    if log.exists() and line in log.read_text():
                        self._lose_node(job, requeues=requeues)
                        return
                time.sleep(0.1)
            pytest.fail(f"no run has logged {line}")

        self._losing.append(start_thread(lose))

    def _lose_node(self, job: str, *, requeues: bool) -> None:
        self._slurm.run("scontrol", "update", f"JobId={job}", f"Requeue={int(requeues)}")
        self._slurm.kill_node(self._slurm.run("squeue", "-h", "-j", job, "-o", "%N").strip())
        while requeues and self._state(job) != "PENDING":
            time.sleep(0.2)
        if requeues:  # Slurm waits for two minutes
            self._slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    @contextlib.contextmanager
    def damaged(self, run_id: str, name: str) -> Iterator[None]:
        (job,) = self._slurm.jobs(run_id)
        path = self._start_folder(job) / OUTPUTS / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        yield
        path.write_bytes(content)

    def reset(self) -> None:
        for name in ("sbatch", "squeue"):
            self._flag(name).unlink(missing_ok=True)
        for losing in self._losing:
            losing.result(SECONDS)
        self._losing.clear()
        self._slurm.revive()

    def _flag(self, name: str) -> Path:
        return self._programs / f"{name}.failures"

    def _jobs(self) -> list[str]:
        return self._slurm.run("squeue", "-h", "-t", "all", "-o", "%A").split()

    def _state(self, job: str) -> str:
        return self._slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def _start_folder(self, job: str) -> Path:
        return Path(self._slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%Z").strip())


class TestSlurmService(RemoteContract):
    @pytest.fixture(scope="class")
    @classmethod
    def faults(
        cls, slurm_environment: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[SlurmFaults]:
        programs = tmp_path_factory.mktemp("programs")
        faults = SlurmFaults(slurm_environment, programs)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
            yield faults
        slurm_environment.cancel_all()

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, faults: SlurmFaults) -> tuple[str, ...]:
        del faults  # it leads to the programs that fail
        return ("backend=slurm", "backend.cpus=2", "register.name=null")

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL
