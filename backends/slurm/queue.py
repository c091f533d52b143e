"""Slurm's answer about a user's jobs.

One query a second answers for all of them.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING

from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.backends.slurm import commands

if TYPE_CHECKING:
    from collections.abc import Mapping

FRESH_SECONDS = 1.0
USER = "user"
"""Key in `place` of the jobs' user id."""
FIELDS = ("JobID", "State", "exit_code", "Reason", "NodeList", "RestartCnt", "Name")
"""Columns of squeue.

Only the last, the name, may hold the separator.
"""
SEPARATOR = "|"

STATUSES = {
    "PENDING": Status.queued,
    "REQUEUED": Status.queued,
    "REQUEUE_FED": Status.queued,
    "REQUEUE_HOLD": Status.queued,
    "RESV_DEL_HOLD": Status.queued,
    "SPECIAL_EXIT": Status.queued,
    "CONFIGURING": Status.preparing,
    "RUNNING": Status.running,
    "RESIZING": Status.running,
    "SIGNALING": Status.running,
    "STAGE_OUT": Status.running,
    "STOPPED": Status.running,
    "SUSPENDED": Status.running,
    "COMPLETING": Status.running,  # it comes before a failure too
    "COMPLETED": Status.completed,
    "CANCELLED": Status.cancelled,
    "REVOKED": Status.cancelled,
    "TIMEOUT": Status.cancelled,
    "DEADLINE": Status.cancelled,
    "FAILED": Status.failed,
    "OUT_OF_MEMORY": Status.failed,
    "NODE_FAIL": Status.failed,
    "BOOT_FAIL": Status.failed,
    "PREEMPTED": Status.failed,
}
"""Slurm's states of a job (man squeue), and ours."""
LOST_NODE = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")


@dataclasses.dataclass(frozen=True)
class SlurmJob:
    """A job as squeue shows it.

    `exit_code` and `signal` are those of the script, as far as known.
    """

    id: str
    name: str
    state: str
    exit_code: int
    signal: int
    reason: str
    nodes: str
    restarts: int


class Queue:
    """One user's jobs on one cluster, by name.

    Several threads and runs share it.
    """

    def __init__(self, place: Mapping[str, str]) -> None:
        self._place = dict(place)
        self._lock = threading.Lock()
        self._jobs: dict[str, list[SlurmJob]] = {}
        self._error: ServiceError | None = None
        self._asked_at: float | None = None

    def named(self, name: str, *, fresh: bool = False) -> list[SlurmJob]:
        """Return the jobs with a name, oldest first.

        They include recently ended ones. The answer, or the ServiceError that it raises, is at most a second
        old; with `fresh`, Slurm is asked now.
        """
        with self._lock:
            if fresh or self._asked_at is None or time.monotonic() - self._asked_at > FRESH_SECONDS:
                try:
                    self._jobs, self._error = self._ask(), None
                except ServiceError as error:  # others that wait need not wait for the same
                    self._error = error
                self._asked_at = time.monotonic()
            if self._error is not None:
                raise self._error
            return self._jobs.get(name, [])

    def forget(self) -> None:
        """Ask Slurm again at the next call."""
        with self._lock:
            self._asked_at = None

    def _ask(self) -> dict[str, list[SlurmJob]]:
        columns = ",".join(f"{field}:{SEPARATOR}" for field in FIELDS)
        words = ["squeue", "--noheader", "--states=all", f"--user={self._place[USER]}", f"--Format={columns}"]
        answer = commands.run(words, self._place, what="ask Slurm for the jobs")
        found: dict[str, list[SlurmJob]] = {}
        for job in sorted(filter(None, map(parse, answer.splitlines())), key=lambda job: int(job.id)):
            found.setdefault(job.name, []).append(job)
        return found


def parse(line: str) -> SlurmJob | None:
    """Return the job in a line of squeue.

    None if it is not one, as for a newline in another job's name.
    """
    values = line.removesuffix(SEPARATOR).split(SEPARATOR, len(FIELDS) - 1)
    if len(values) != len(FIELDS) or not values[0].isdecimal():
        return None
    job_id, state, exit_code, reason, nodes, restarts, name = values
    code, signal = _exit(exit_code)
    count = int(restarts) if restarts.isdecimal() else 0
    return SlurmJob(job_id, name, state, code, signal, "" if reason == "None" else reason, nodes, count)


def _exit(text: str) -> tuple[int, int]:
    """Return the exit code and the signal.

    squeue prints wait's status, or both with a colon.
    """
    code, _, signal = text.partition(":")
    if not code.isdecimal():
        return 0, 0
    if signal.isdecimal():
        return int(code), int(signal)
    return int(code) >> 8 & 0xFF, int(code) & 0x7F


_queues: dict[tuple[str, str], Queue] = {}
_queues_lock = threading.Lock()


def queue_at(place: Mapping[str, str]) -> Queue:
    """Return this process's queue for `place`."""
    key = (place.get(commands.SLURM_CONF, ""), place[USER])
    with _queues_lock:
        return _queues.setdefault(key, Queue(place))
