"""Runs that the service knows and no node executes: a test sets their states and their files."""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import TYPE_CHECKING, Any

from helpers.azure_commands import TINY, chosen, forget

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.azure.entry import FAILURE, PROGRESS
from mnist_cnn.backends.azure.run import AzureRun
from mnist_cnn.backends.azure.submit import resubmit
from mnist_cnn.training.runtime import versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loopback import AzureService

    from mnist_cnn.job import Job

LOG = "user_logs/std_log.txt"
ORIGIN = "ExperimentRun"
PREEMPTED = "Nodes of this job got pre-empted"


class ServiceRun:
    """A run of the service, and the run folder that its receipt is in."""

    def __init__(
        self, azure: AzureService, folder: Path, *overrides: str, job: Job | None = None, **service: str
    ) -> None:
        config = compose.load([*chosen(azure), *TINY, *overrides])
        assert isinstance(config.backend, AzureConfig)
        self.azure, self.folder, self.config = azure, folder, config.backend
        self.id = f"made_{secrets.token_hex(4)}"
        job = job or launch.job_of(config)
        settings = dataclasses.asdict(self.config) | {"workspace": str(azure.home)}
        del settings["name"], settings["data"]
        place = dataclasses.asdict(checks.find_workspace(str(azure.home)))
        self.before = run_folder.Receipt(
            "azure",
            self.id,
            job.digest,
            Status.queued,
            run_folder.now(),
            url="https://ml.azure.com/runs/made",
            backend_settings=settings,
            versions=versions(),
            service=place | {"checkpoints": f"mnist-cnn-checkpoints/{self.id}"} | service,
        )
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_job(folder, job)
        run_folder.write_receipt(folder, self.before)
        self.run = azure.runs.create(self.id, self.config.experiment, target=self.config.cluster)
        forget()

    def attach(self) -> AzureRun:
        """Return the run as the backend attaches to it."""
        return AzureRun(self.folder, self.config, resubmit)

    def becomes(self, state: str, error: str | None = None) -> None:
        """Give the run a state of the service."""
        said = None if error is None else {"error": {"code": "UserError", "message": error}}
        self.azure.runs.advance(self.run, state, said)

    def prints(self, text: str) -> None:
        """Let the node's log, in the service, be a text."""
        self.azure.handlers.artifacts.write(ORIGIN, self.run.container, LOG, text.encode())

    def begins(self) -> None:
        """Let a node have begun to train."""
        self.prints(f"{PROGRESS}{{}}\n")
        self.becomes("Running")

    def fails(self, error: str, exit_code: int) -> None:
        """Let the trainer fail, with its own error in the log."""
        told = json.dumps({"exit_code": exit_code, "error": error, "hint": ""})
        self.prints(f"{PROGRESS}{{}}\n{FAILURE}{told}\n")
        self.becomes("Failed", "JobFailed: exit code 1")

    def is_preempted(self) -> None:
        """Let the service take the run's node away for good."""
        self.becomes("Failed", PREEMPTED)

    def leaves(self, outputs: Path) -> None:
        """Let the run have left the files of a completed run folder, changed as the test likes."""
        for path in outputs.iterdir():
            if path.is_file() and path.name not in (run_folder.JOB, run_folder.RECEIPT, run_folder.LOG):
                self.write(path.name, path.read_bytes())

    def write(self, name: str, content: bytes) -> None:
        self.azure.handlers.artifacts.write(ORIGIN, self.run.container, f"outputs/{name}", content)

    def delete(self, name: str) -> None:
        self.azure.handlers.artifacts.delete(ORIGIN, self.run.container, f"outputs/{name}")

    def receipt(self) -> run_folder.Receipt:
        return run_folder.read_receipt(self.folder)

    def polls(self, run: AzureRun, clock: Clock, times: int, every: float = 2.0) -> list[str]:
        """Ask for the status now and then; return what the service was asked each time, if anything."""
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
    """The time that a run is followed by: it passes while the follower sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now = 1.0
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def completed_run(azure: AzureService, folder: Path, outputs: Path, *overrides: str) -> ServiceRun:
    """Make a run that the service has completed, with the outputs of a completed run folder."""
    made = ServiceRun(azure, folder, *overrides, job=run_folder.read_job(outputs))
    made.prints("trained\n")
    made.leaves(outputs)
    made.becomes("Completed")
    return made


def preempted_run(azure: AzureService, folder: Path, *overrides: str, **service: Any) -> ServiceRun:
    """Make a run whose node the service has taken away for good."""
    made = ServiceRun(azure, folder, *overrides, **service)
    made.is_preempted()
    return made
