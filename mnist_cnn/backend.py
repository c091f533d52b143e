"""The contract for the places where a job runs.

To add a backend, write a class with the attributes and methods of `Backend` and one with those of `Run`.
`mnist_cnn.testing.BackendContract` tests what they must do. For a cluster, write a `Service` for
`mnist_cnn.backends.remote.backend.RemoteBackend` instead.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mnist_cnn.config import BackendConfig, Config
    from mnist_cnn.job import Job
    from mnist_cnn.result import Progress, Result


class Status(StrEnum):
    """The states of a run.

    Each backend maps its service's own names to these in one table.
    """

    queued = "queued"
    preparing = "preparing"
    running = "running"
    finalizing = "finalizing"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    paused = "paused"
    lost = "lost"

    @property
    def is_final(self) -> bool:
        """Return whether the run has ended."""
        return self not in (Status.queued, Status.preparing, Status.running, Status.finalizing)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `submit` would do.

    `lines` are labels and values in display order; `str` gives a line for each.
    """

    lines: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join(f"{label:<11} {value}" for label, value in self.lines)


@dataclasses.dataclass(frozen=True)
class ModelRef:
    """A registered model.

    `is_new` is false if this run was already registered under the name.
    """

    name: str
    version: int
    location: str
    is_new: bool


class Run(Protocol):
    """One execution of a job.

    Any process can use it, not only the one that submitted it.
    """

    folder: Path

    def status(self) -> Status:
        """Return the current status.

        Raises:
            BackendError: the service does not answer, or its answer cannot be saved here.
            ConfigurationError: something needed to ask the service is missing here.
        """

    def progress(self) -> Progress | None:
        """Return the position in the training, or None."""

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that the trainer printed.

        With `follow`, waits for more until the run has ended. Raises BackendError if the log cannot be read;
        the run itself may still be running.
        """

    def wait(self) -> Result:
        """Wait for the run's end and return its result.

        Each call returns the same result.

        Raises:
            TrainingError, DataError, BackendError, ConfigurationError: the run failed with this error.
            RunCancelled: the run was cancelled.
            RunPaused: the run has reached `pause_after` and is paused.
            BackendError: waiting is no longer possible. The run is still running.
            MnistCnnError: a bug of the trainer.
        """

    def cancel(self) -> None:
        """End the run and return when it has ended.

        Does nothing if it had ended before. Raises BackendError if the run cannot be cancelled from here, or
        does not end.
        """

    def download_checkpoints(self) -> None:
        """Download the ended run's checkpoints into its folder.

        Another backend can then resume it. Raises BackendError if that is not possible now.
        """

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        """Register the completed run's model under a name.

        The same run under the same name keeps the version that it has.

        Raises:
            ConfigurationError: the name or `min_accuracy` isn't valid.
            BackendError: the run is not completed, or its test accuracy is below `min_accuracy`.
        """

    def cost_report(self) -> Iterator[str]:
        """Yield lines about the backend's present costs.

        They also say how to stop them. Yields nothing if it costs nothing.
        """


class Backend(Protocol):
    """A place where jobs run.

    Made from the whole configuration; the `backend` section is its own.
    """

    CONFIG: ClassVar[type[BackendConfig]]
    """The schema of `backend.*`, a subclass of BackendConfig."""

    parallel_runs: int | None
    """How many runs may execute at the same time.

    None if the service queues them itself.
    """

    ends_with_its_command: bool
    """Whether a run ends when its command is interrupted.

    That is the command that started it.
    """

    def __init__(self, config: Config) -> None: ...

    def plan(self, job: Job) -> Plan:
        """Return where and how the job would run.

        Sends nothing and writes nothing. Raises as `check` does.
        """

    def check(self, job: Job) -> None:
        """Check a job before its run folder is made.

        Raises ConfigurationError, DataError or BackendError.
        """

    def submit(self, job: Job, folder: Path) -> Run:
        """Start the job in its run folder.

        The folder holds job.json; this writes the receipt, run.json. If the folder or the service has
        checkpoints of the run, it continues from the newest. The run pauses after the configuration's epoch
        `pause_after`, if that is set.

        Raises:
            ConfigurationError: the folder holds a run that is under way or completed.
            BackendError: the service refuses the run.
        """

    def attach(self, folder: Path) -> Run:
        """Return the run in a folder.

        Needs nothing but the folder. Raises BackendError if it holds no run.
        """


@runtime_checkable
class StoresCheckpoints(Protocol):
    """Optional interface for a run with stored checkpoints.

    These are kept outside its folder. `delete` uses it.
    """

    def stored_checkpoints(self) -> dict[str, int]:
        """Return the bytes of each stored file, by name.

        Raises BackendError.
        """

    def remove_stored_checkpoints(self, names: Iterable[str]) -> None:
        """Remove stored files that `stored_checkpoints` has listed.

        `delete` holds the lock of the run folder meanwhile. Raises BackendError.
        """


@runtime_checkable
class HasCluster(Protocol):
    """Optional interface for a backend that manages a cluster.

    `cluster show` and `cluster delete` use it.
    """

    def cluster(self, action: str) -> Iterator[str]:
        """Do `show` or `delete`, and yield lines for people.

        Raises BackendError if it is refused.
        """
