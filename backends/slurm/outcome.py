"""Derives a run's state from Slurm and its files."""

from __future__ import annotations

import dataclasses
import json
import signal
from typing import TYPE_CHECKING

import msgspec

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.node import OUTPUTS, PAUSED
from mnist_cnn.backends.remote.service import Observation
from mnist_cnn.backends.slurm import script
from mnist_cnn.backends.slurm.queue import LOST_NODE, STATUSES
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backends.slurm.queue import SlurmJob

FORGOTTEN = "forgotten by Slurm"
"""State of a job that Slurm no longer remembers.

It ended longer ago than Slurm's MinJobAge.
"""
CANCELLED = "cancelled"
"""A start's file: this package has requested its end."""
NO_FOLDER_SIGNAL = 53
"""Slurm's "signal" if a node cannot open the output."""
CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS)
"""Signals of crashes, which another node would repeat."""
UNRECORDED = (script.UNSUITABLE, script.NOT_OWNER)
"""Exit codes for which `exit` may be missing."""


@dataclasses.dataclass(frozen=True)
class Exit:
    """The file `exit`, which the script writes last.

    `near_limit` is 1 if the time limit was near.
    """

    job: int
    start: int
    node: str
    code: int
    signalled: bool
    near_limit: int

    @property
    def received_sigterm(self) -> bool:
        """Return whether SIGTERM ended the training.

        The trainer may have seen it before the script did.
        """
        return self.signalled or self.code == script.SHELL_SIGNAL + signal.SIGTERM


def read_exit(start: Path) -> Exit | None:
    """Return the script's end, or None.

    None means that it is running, or was killed.
    """
    try:
        text = safe_read.read_bytes(start / script.EXIT, safe_read.SETTINGS_BYTES)
        return msgspec.convert(json.loads(text), Exit)
    except (OSError, ValueError, msgspec.ValidationError):
        return None


def has_result(start: Path) -> bool:
    """Return whether the training wrote a result or paused."""
    names = (run_folder.RESULT, PAUSED)
    return any((start / OUTPUTS / name).is_file() for name in names)


def awaits_files(job: SlurmJob | None, seen: Observation, start: Path) -> bool:
    """Return whether an ended run lacks a node's file."""
    if seen.status is Status.completed:
        return not has_result(start)
    if job is None or job.state != "FAILED" or job.signal or job.exit_code in UNRECORDED:
        return False
    ended = read_exit(start)
    return ended is None or ended.job != int(job.id)


def of_job(job: SlurmJob, start: Path) -> Observation:
    """Return the observation of a job that Slurm knows."""
    status = STATUSES.get(job.state, Status.running)
    if not status.is_final:
        has_log = job.restarts > 0 or status not in (Status.queued, Status.preparing)
        return Observation(_with_reason(job), status, has_log=has_log)
    ended = read_exit(start)
    if job.state == "FAILED":
        return _failed(job, ended, start)
    node = f" on {job.nodes}" if job.nodes else ""
    errors = {
        "COMPLETED": "",
        "CANCELLED": f"Slurm job {job.id} was cancelled",
        "TIMEOUT": f"Slurm job {job.id} reached its time limit{node}; set backend.max_duration",
        "DEADLINE": f"Slurm job {job.id} reached its deadline",
        "OUT_OF_MEMORY": f"Slurm job {job.id} needed more memory than it may use{node}; set backend.memory",
        "NODE_FAIL": f"Slurm job {job.id} lost its node{node}",
        "BOOT_FAIL": f"the node of Slurm job {job.id} did not boot{node}",
        "PREEMPTED": f"Slurm job {job.id} was preempted{node}",
    }
    error = errors.get(job.state, f"Slurm job {job.id} ended as {job.state}{node}")
    return Observation(job.state, status, error, is_lost=job.state in LOST_NODE)


def of_forgotten(start: Path) -> Observation | None:
    """Return the observation of a job unknown to Slurm.

    None if no node has begun it.
    """
    ended = read_exit(start)
    if ended is not None and ended.code == 0:
        return Observation(FORGOTTEN, Status.completed)
    if (start / CANCELLED).exists():
        return Observation(FORGOTTEN, Status.cancelled, "the run was cancelled")
    if ended is None:
        if not (start / script.OWNER).exists():
            return None
        error = "Slurm has forgotten the job, and its node left no record of its end"
        return Observation(FORGOTTEN, Status.failed, error, is_lost=True)
    seen = _of_exit(FORGOTTEN, f"Slurm job {ended.job}", ended)
    if ended.received_sigterm:  # perhaps a user's scancel: it must not start the run again
        seen = dataclasses.replace(seen, status=Status.cancelled, is_lost=False)
    return seen


def _failed(job: SlurmJob, ended: Exit | None, start: Path) -> Observation:
    """Return the observation of a FAILED job.

    The trainer, the script, the node or Slurm failed.
    """
    what = f"Slurm job {job.id}"
    if ended is not None and ended.job == int(job.id):
        return _of_exit(job.state, what, ended)
    if job.signal == NO_FOLDER_SIGNAL or job.exit_code == script.UNSUITABLE:
        error = f"node {job.nodes} does not see {start}; start runs in a folder that all nodes share"
        return Observation(job.state, Status.failed, f"{error}: runs_dir=FOLDER")
    if job.signal and job.nodes:  # a job that Slurm can never start has an odd exit code
        error = f"{what} was killed on {job.nodes} by signal {job.signal}"
        return Observation(job.state, Status.failed, error, is_lost=True)
    reason = f" ({job.reason})" if job.reason else ""
    place = f" on {job.nodes}" if job.nodes else " before it started"
    error = f"{what} failed{place} with exit code {job.exit_code}{reason}"
    return Observation(job.state, Status.failed, error)


def _of_exit(state: str, what: str, ended: Exit) -> Observation:
    """Return the observation of an unsuccessful script."""
    if ended.code == script.UNSUITABLE:
        return Observation(
            state, Status.failed, f"node {ended.node} could not start the training; read the log"
        )
    if ended.received_sigterm and ended.near_limit:
        error = f"{what} reached its time limit on {ended.node}; set backend.max_duration"
        return Observation(state, Status.cancelled, error)
    if ended.received_sigterm:
        error = f"{what} was stopped on {ended.node} by SIGTERM before its time limit"
        return Observation(state, Status.failed, error, is_lost=True)
    if ended.code == script.WORKER_LOST:
        error = f"a worker of {what} was killed on {ended.node}, or its node has failed"
        return Observation(state, Status.failed, error, is_lost=True)
    number = ended.code - script.SHELL_SIGNAL
    if number not in {known.value for known in signal.Signals}:
        error = f"the training failed on {ended.node} with exit code {ended.code}"
        return Observation(state, Status.failed, error, has_trainer_failed=True)
    error = f"the training was killed on {ended.node} by {signal.Signals(number).name}"
    if number == signal.SIGKILL:
        error += "; the node may have too little memory (backend.memory)"
    is_crash = number in CRASHES
    return Observation(state, Status.failed, error, has_trainer_failed=is_crash, is_lost=not is_crash)


def _with_reason(job: SlurmJob) -> str:
    """Return the state, with its reason or nodes."""
    shown = job.reason if STATUSES.get(job.state) is Status.queued else job.nodes
    return f"{job.state} ({shown})" if shown else job.state
