"""What a tracker is, and what it is given."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mnist_cnn import run_folder
from mnist_cnn.job import leaves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mnist_cnn.backend import Status
    from mnist_cnn.job import Job
    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import EpochRow, Result
    from mnist_cnn.tracking.state import State

LEFT_OUT = ("schema", "model.source")
"""Parts of a job that aren't settings to compare."""


@dataclasses.dataclass(frozen=True)
class Point:
    """An epoch's measured values and its end.

    `time` is in seconds since 1970.
    """

    epoch: int
    time: float
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run as its folder describes it."""

    folder: Path
    job: Job
    receipt: Receipt

    @classmethod
    def of(cls, folder: Path) -> TrackedRun:
        """Read a run folder.

        Raises BackendError or ConfigurationError if a file is damaged.
        """
        return cls(folder, run_folder.read_job(folder), run_folder.read_receipt(folder))

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.resolve().name

    @property
    def created(self) -> float:
        """When the run was created, in seconds since 1970."""
        return datetime.fromisoformat(self.receipt.created).timestamp()

    @property
    def settings(self) -> dict[str, Any]:
        """The job's settings by their full keys: {"train.epochs": 12}."""
        return {name: value for name, value in leaves(self.job.as_mapping()) if name not in LEFT_OUT}

    @property
    def tags(self) -> dict[str, str]:
        """What identifies the run, beside its settings."""
        return {
            "job_digest": self.receipt.job_digest,
            "backend": self.receipt.backend,
            "run_folder": str(self.folder.resolve()),
        }

    def history_version(self) -> tuple[int, ...]:
        """Return what changes whenever the history does.

        Reading the whole history may take long.
        """
        try:
            found = (self.folder / run_folder.METRICS).stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def points(self, after: int) -> list[Point]:
        """Return the history's epochs later than `after`.

        Their times follow from the run's creation and the seconds of each epoch, so that every process
        computes the same ones. Raises BackendError.
        """
        rows = run_folder.read_history(self.folder)
        times = itertools.accumulate((row.seconds for row in rows), initial=self.created)
        next(times)
        points = [Point(row.epoch, time, values(row)) for row, time in zip(rows, times, strict=True)]
        return [point for point in points if point.epoch > after]


class Tracker(Protocol):
    """Writes one run.

    One thread calls its methods, in this order. They may raise any exception.
    """

    def __init__(self, run: TrackedRun, state: State) -> None: ...

    def start(self) -> State:
        """Create the run at the tracker, or find it.

        Returns the state with its place and newest epoch.
        """

    def write(self, points: Sequence[Point]) -> None:
        """Write epochs that it doesn't have yet."""

    def end(self, status: Status, result: Result | None) -> None:
        """Record how the run ended.

        Adds its pictures, and its model if it is completed.
        """

    def close(self) -> None:
        """Release what `start` opened."""


def values(row: EpochRow) -> dict[str, float]:
    """Return a row's numbers by name, except its epoch."""
    found: dict[str, float] = {}
    for name, value in dataclasses.asdict(row).items():
        if isinstance(value, dict):  # metrics of the job's own
            found |= value
        elif isinstance(value, int | float) and name != "epoch":
            found[name] = value
    return found


def end_tags(status: Status, result: Result | None) -> dict[str, str]:
    """Return the tags of an ended run."""
    tags = {"status": status.value}
    if result is not None:
        tags |= {"weights_sha256": result.weights_sha256, "device": result.device}
        tags |= {"fingerprint": result.fingerprint} if result.fingerprint is not None else {}
    return tags
