"""What Slurm's programs print, and what it means."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.backends.slurm import commands, outcome
from mnist_cnn.backends.slurm.queue import STATUSES, Queue, SlurmJob, parse
from mnist_cnn.backends.slurm.service import minutes

if TYPE_CHECKING:
    from pathlib import Path

SBATCH = "sbatch: error: Batch job submission failed: "
VIOLATION = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
PLACE = {commands.SLURM_CONF: "", "user": "0"}


@pytest.mark.parametrize(
    ("text", "status", "hint"),
    [
        (f"{SBATCH}Invalid account or account/partition combination specified", 400, "backend.account"),
        (f"{SBATCH}Invalid qos specification", 400, "backend.qos"),
        (f"{SBATCH}Invalid partition name specified", 400, "backend.partition"),
        (f"{SBATCH}Requested time limit is invalid (missing or exceeds some limit)", 400, "max_duration"),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{SBATCH}{VIOLATION}", 409, "wait"),
        (f"{SBATCH}Requested node configuration is not available", 400, "backend.cpus"),
        (f"{SBATCH}User's group not permitted to use this partition", 403, "access"),
        (f"{SBATCH}Unable to contact slurm controller (connect failure)", None, "slurmctld"),
        (f"{SBATCH}Socket timed out on send/recv operation", None, "again"),
        (f"{SBATCH}Protocol authentication error", None, "munged"),
        (f"{SBATCH}Something new", 400, "man sbatch"),
    ],
)
def test_every_answer_of_slurm_names_a_way_out(text: str, status: int | None, hint: str) -> None:
    error = commands.translate("submit the run", "sbatch", text)
    assert error.status == status
    assert hint in error.hint
    assert error.message.startswith("cannot submit the run: ")
    assert "error:" not in error.message
    assert "\n" not in error.message + error.hint


def test_a_program_that_a_signal_ended_may_have_done_its_work() -> None:
    with pytest.raises(ServiceError, match="killed by signal 9") as raised:
        commands.run(["/bin/sh", "-c", "kill -KILL $$"], PLACE, what="submit the run")
    assert raised.value.is_transient
    assert raised.value.is_abandoned


def test_ctrl_c_does_not_reach_the_programs_of_slurm() -> None:
    """A terminal sends it to the whole group of the command's process."""
    code = "import os; print(os.getpgrp())"
    assert commands.run([sys.executable, "-c", code], PLACE, what="try").strip() != str(os.getpgrp())


def test_a_machine_without_room_for_a_process_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(ServiceError, match="Resource temporarily unavailable") as raised:
        commands.run(["squeue"], PLACE, what="ask Slurm for the jobs")
    assert raised.value.is_transient


def test_all_who_wait_for_slurm_get_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(words: list[str], *_: object, **__: object) -> str:
        asked.append(words)
        raise ServiceError("no answer")

    monkeypatch.setattr(commands, "run", fail)
    queue = Queue(PLACE)
    for _ in range(3):
        with pytest.raises(ServiceError, match="no answer"):
            queue.named("run")
    assert len(asked) == 1


def test_a_line_of_squeue_is_a_job() -> None:
    job = parse("7|FAILED|36608|NonZeroExitCode|n[1-2]|2|mnist|cnn|")
    assert job == SlurmJob("7", "mnist|cnn", "FAILED", 143, 0, "NonZeroExitCode", "n[1-2]", 2)
    assert parse("7|FAILED|0:9|None||0|x|") == SlurmJob("7", "x", "FAILED", 0, 9, "", "", 0)
    assert parse("the second line of a name|") is None


@pytest.mark.parametrize(
    ("state", "status", "said", "is_lost"),
    [
        ("OUT_OF_MEMORY", Status.failed, "backend.memory", False),
        ("TIMEOUT", Status.cancelled, "time limit", False),
        ("DEADLINE", Status.cancelled, "deadline", False),
        ("BOOT_FAIL", Status.failed, "did not boot", True),
        ("NODE_FAIL", Status.failed, "lost its node", True),
        ("PREEMPTED", Status.failed, "preempted", True),
        ("REQUEUE_HOLD", Status.queued, "", False),
        ("COMPLETING", Status.running, "", False),
        ("A_NEW_STATE", Status.running, "", False),
    ],
)
def test_a_state_of_slurm_has_its_status(
    tmp_path: Path, state: str, status: Status, said: str, *, is_lost: bool
) -> None:
    found = outcome.of_job(SlurmJob("7", "x", state, 0, 0, "", "n1", 0), tmp_path)
    assert (found.status, found.is_lost) == (status, is_lost)
    assert said in found.error


def test_a_final_state_has_an_error_unless_the_run_is_completed(tmp_path: Path) -> None:
    for state, status in STATUSES.items():
        found = outcome.of_job(SlurmJob("7", "x", state, 0, 0, "", "n1", 0), tmp_path)
        assert bool(found.error) == (status.is_final and status is not Status.completed)


def test_a_job_that_slurm_can_never_start_has_lost_no_node(tmp_path: Path) -> None:
    """Slurm keeps some jobs that it has refused, with the exit status 1."""
    job = parse("9|FAILED|1|BadConstraints||0|run|")
    assert job is not None
    found = outcome.of_job(job, tmp_path)
    assert (found.status, found.is_lost) == (Status.failed, False)
    assert "failed before it started" in found.error
    assert "BadConstraints" in found.error


@pytest.mark.parametrize(
    ("code", "signalled", "near_limit", "status", "is_lost"),
    [
        (1, False, 0, Status.failed, False),
        (137, False, 0, Status.failed, True),
        (139, False, 0, Status.failed, False),
        (143, True, 0, Status.failed, True),
        (143, True, 1, Status.cancelled, False),
        (163, False, 0, Status.failed, False),
        (75, False, 0, Status.failed, True),
        (75, True, 1, Status.cancelled, False),
    ],
    ids=[
        *("failed", "killed", "crashed", "stopped", "time-limit", "real-time-signal"),
        *("worker-killed", "workers-time-limit"),
    ],
)
def test_the_record_of_the_end_says_how_a_run_failed(  # noqa: PLR0913 - a table
    tmp_path: Path, code: int, near_limit: int, status: Status, *, signalled: bool, is_lost: bool
) -> None:
    job = SlurmJob("7", "x", "FAILED", 1, 0, "", "n1", 0)
    assert outcome.awaits_files(job, outcome.of_job(job, tmp_path), tmp_path)
    ended = {"job": 7, "start": 0, "node": "n1", "code": code, "signalled": signalled}
    (tmp_path / "exit").write_text(json.dumps({**ended, "near_limit": near_limit}))
    found = outcome.of_job(job, tmp_path)
    assert (found.status, found.is_lost) == (status, is_lost)
    assert not outcome.awaits_files(job, found, tmp_path)


def test_a_forgotten_job_without_a_record_has_lost_its_node(tmp_path: Path) -> None:
    assert outcome.of_forgotten(tmp_path) is None
    (tmp_path / "owner").write_text("7")
    found = outcome.of_forgotten(tmp_path)
    assert found is not None
    assert (found.status, found.is_lost) == (Status.failed, True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": "x"}', "\xff"])
def test_a_damaged_record_of_the_end_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "exit").write_text(text, encoding="latin-1")
    assert outcome.read_exit(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "limit"), [("10:00:00", 600), ("1-02:00:00", 1560), ("00:10:00", 10), ("UNLIMITED", None)]
)
def test_a_time_limit_is_read_in_minutes(text: str, limit: int | None) -> None:
    assert minutes(text) == limit
