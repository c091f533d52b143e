"""The contract between the command line and the places where a job can run. No implementation.

A newcomer reads this page first. To add a backend, write a class with the attributes and methods of
`Backend` and one with those of `Run`; tests/contract.py holds what they owe, whoever writes them.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.config import BackendConfig, Config, RegisterConfig
    from mnist_cnn.job import Job
    from mnist_cnn.result import Progress, Result


class Status(StrEnum):
    """Where a run stands. A service's own names are mapped to these in one table."""

    queued = "queued"
    preparing = "preparing"
    running = "running"
    finalizing = "finalizing"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"

    @property
    def is_final(self) -> bool:
        """Tell whether the run has ended, one way or another."""
        return self in (Status.completed, Status.failed, Status.cancelled, Status.lost)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What would happen, to be read by a person: labels and their values, in order."""

    lines: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class ModelRef:
    """A registered model. `is_new` is false where this run had been registered under the name before."""

    name: str
    version: int
    location: str
    is_new: bool


class Run(Protocol):
    """One execution of a job. Everything here can be called from another process than the submitter's."""

    folder: Path

    def status(self) -> Status:
        """Return where the run stands now.

        Raises:
            BackendError: the place does not answer, or the disk here does not take what it says.
            ConfigurationError: this side lacks what it takes to ask the place.
        """

    def progress(self) -> Progress | None:
        """Return where the training stands within its epoch, or None where that is not known."""

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that the trainer printed; with `follow`, until the run has ended.

        Raises:
            BackendError: it cannot be followed any longer, and goes on.
        """

    def wait(self) -> Result:
        """Wait for the run's end and return its result, the same at each call.

        Raises:
            TrainingError, DataError, BackendError, ConfigurationError: the run failed so.
            RunCancelled: the run was cancelled.
            BackendError: it cannot be waited for any longer, and goes on.
            MnistCnnError: a bug of the trainer.
        """

    def cancel(self) -> None:
        """End the run and return when it has ended; nothing happens where it had ended before.

        Raises:
            BackendError: it cannot be ended from here, or does not end.
        """

    def download_checkpoints(self) -> None:
        """Bring the ended run's checkpoints into its folder, for another place to go on from.

        Raises:
            BackendError: that cannot be done now.
        """

    def register(self, register: RegisterConfig) -> ModelRef:
        """Register the completed run's model under `register.name`.

        The same run under the same name gives the version that it already has.

        Raises:
            BackendError: the run is not completed, or below `register.min_accuracy`.
        """

    def cost_report(self) -> Iterator[str]:
        """Yield lines on what the place costs now and how to end that; none where it costs nothing."""


class Backend(Protocol):
    """A place where jobs run. Made from the whole configuration, of which it owns the `backend` section."""

    CONFIG: ClassVar[type[BackendConfig]]
    """The schema of `backend.*`; one subclass of BackendConfig for each backend."""

    parallel_runs: int | None
    """How many runs this place takes at a time; None where it queues by itself."""

    ends_with_its_command: bool
    """Whether a run ends when the command that started it is interrupted; elsewhere it goes on."""

    def __init__(self, config: Config) -> None: ...

    def plan(self, job: Job) -> Plan:
        """Say where and how the job would run. Pure: sends nothing, writes nothing."""

    def check(self, job: Job) -> None:
        """Check, before a run folder is made, all that can be known without asking the place.

        Raises:
            ConfigurationError, DataError: what is wrong on this side.
        """

    def submit(self, job: Job, folder: Path) -> Run:
        """Start the job in a run folder that holds its job.json; write the receipt, run.json.

        Where the folder, or this place, has checkpoints of the run, it goes on from the newest.

        Raises:
            ConfigurationError: the folder holds a run that is under way or completed.
            BackendError: this place does not take it.
        """

    def attach(self, folder: Path) -> Run:
        """Find a run again from its folder alone.

        Raises:
            BackendError: there is no such run.
        """


@runtime_checkable
class HasCluster(Protocol):
    """What a backend is besides, whose machines `cluster show` and `cluster delete` know."""

    def cluster(self, action: str) -> Iterator[str]:
        """Do `show` or `delete`, and yield lines that tell a person of it.

        Raises:
            BackendError: it was refused.
        """
