"""Runs that the service knows and no node executes: a test sets their states and their files."""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import TYPE_CHECKING, Any

from helpers.azure_commands import TINY, chosen, forget, run_here
from loopback import v2_jobs

from mnist_cnn import compose, job_maker, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import AzureBackend, checks
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.backends.remote.node import FAILURE, PROGRESS
from mnist_cnn.receipt import Receipt
from mnist_cnn.training.runtime import versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.processes import Ended
    from loopback import AzureService

    from mnist_cnn.backends.remote.run import RemoteRun
    from mnist_cnn.job import Job

LOG = "user_logs/std_log.txt"
ORIGIN = "ExperimentRun"
PREEMPTED = "Nodes of this job got pre-empted"


class ServiceRun:
    """A run of the service, and its run folder."""

    def __init__(
        self, azure: AzureService, folder: Path, *overrides: str, job: Job | None = None, **service: str
    ) -> None:
        config = compose.load([*chosen(azure), *TINY, *overrides])
        self.backend = AzureBackend(config)
        self.azure, self.folder, self.config = azure, folder, self.backend.settings
        self.id = f"made_{secrets.token_hex(4)}"
        job = job or job_maker.job_of(config)
        place = dataclasses.asdict(checks.find_workspace(str(azure.home)))
        self.before = Receipt(
            "azure",
            self.id,
            job.digest,
            Status.queued,
            run_folder.now(),
            url="https://ml.azure.com/runs/made",
            backend_settings=self.backend.service().settings(),
            versions=versions(),
            service=place | {"checkpoints": f"mnist-cnn-checkpoints/{self.id}"} | service,
        )
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_job(folder, job)
        run_folder.write_receipt(folder, self.before)
        self.run = azure.runs.create(self.id, self.config.experiment, target=self.config.cluster)
        if self.config.sdk is Sdk.v2:
            v2_jobs.define(
                self.run, f"{azure.handlers.tenancy.workspace_path}/computes/{self.config.cluster}"
            )
        forget()

    def attach(self) -> RemoteRun:
        """Return the run as the backend attaches to it."""
        return self.backend.attach(self.folder)

    def set_state(self, state: str, error: str | None = None) -> None:
        """Set the state that the service reports, and why it failed."""
        said = None if error is None else {"error": {"code": "UserError", "message": error}}
        self.azure.runs.advance(self.run, state, said)

    def write_log(self, text: str) -> None:
        """Replace the node's log."""
        self.azure.handlers.artifacts.write(ORIGIN, self.run.container, LOG, text.encode())

    def begin(self) -> None:
        """Let a node begin to train."""
        self.write_log(f"{PROGRESS}{{}}\n")
        self.set_state("Running")

    def fail(self, error: str, exit_code: int) -> None:
        """Let the training fail, with its error in the log."""
        line = json.dumps({"exit_code": exit_code, "error": error, "hint": ""})
        self.write_log(f"{PROGRESS}{{}}\n{FAILURE}{line}\n")
        self.set_state("Failed", "JobFailed: exit code 1")

    def preempt(self) -> None:
        """Let the service preempt the node, and not start the run again."""
        self.set_state("Failed", PREEMPTED)

    def end(self, outputs: Path, state: str = "Completed", error: str | None = None) -> None:
        """Let the training end with the outputs of a completed run folder, and the run in this state."""
        self.write_log("trained\n")
        self.write_outputs(outputs)
        self.set_state(state, error)

    def write_outputs(self, outputs: Path) -> None:
        for path in outputs.iterdir():
            if path.is_file() and path.name not in (run_folder.JOB, run_folder.RECEIPT, run_folder.LOG):
                self.write_output(path.name, path.read_bytes())

    def write_output(self, name: str, content: bytes) -> None:
        self.azure.handlers.artifacts.write(ORIGIN, self.run.container, f"outputs/{name}", content)

    def command(self, verb: str, *arguments: str) -> Ended:
        """Run a command on the run folder, in its parent."""
        return run_here(verb, self.folder.name, *arguments, cwd=self.folder.parent)

    def receipt(self) -> Receipt:
        return run_folder.read_receipt(self.folder)

    def polls(self, run: RemoteRun, clock: Clock, times: int, every: float = 2.0) -> list[str]:
        """Ask for the status `times` times, `every` seconds apart; return which requests that caused."""
        asked = []
        for _ in range(times):
            before = len(self.azure.requests.exchanges())
            clock.sleep(every)
            run.status()
            paths = [exchange.path for exchange in self.azure.requests.exchanges()[before:]]
            if any(path.endswith("/details") for path in paths):
                asked.append("details")
            elif any(path.endswith(f"/runs/{self.id}") for path in paths):
                asked.append("state")
        return asked


class Clock:
    """A clock that stands still except while the code under test sleeps."""

    def __init__(self) -> None:
        self.now = 1.0
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def completed_run(azure: AzureService, folder: Path, outputs: Path, *overrides: str) -> ServiceRun:
    """Return a run that the service has completed, with the outputs of a completed run folder."""
    made = ServiceRun(azure, folder, *overrides, job=run_folder.read_job(outputs))
    made.end(outputs)
    return made


def preempted_run(azure: AzureService, folder: Path, *overrides: str, **service: Any) -> ServiceRun:
    """Return a run whose node was preempted for good."""
    made = ServiceRun(azure, folder, *overrides, **service)
    made.preempt()
    return made
