"""What Slurm's programs print, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mnist_cnn.backend import Status
from mnist_cnn.backends.slurm import commands, outcome
from mnist_cnn.backends.slurm.queue import STATUSES, SlurmJob, parse
from mnist_cnn.backends.slurm.service import minutes

if TYPE_CHECKING:
    from pathlib import Path

SBATCH = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("text", "status", "hint"),
    [
        (f"{SBATCH}Invalid account or account/partition combination specified", 400, "backend.account"),
        (f"{SBATCH}Invalid qos specification", 400, "backend.qos"),
        (f"{SBATCH}Invalid partition name specified", 400, "backend.partition"),
        (f"{SBATCH}Requested time limit is invalid (missing or exceeds some limit)", 400, "max_duration"),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{SBATCH}Job violates accounting/QOS policy", 409, "wait"),
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": "x"}', "\xff"])
def test_a_damaged_record_of_the_end_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "exit").write_text(text, encoding="latin-1")
    assert outcome.read_exit(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "limit"), [("10:00:00", 600), ("1-02:00:00", 1560), ("00:10:00", 10), ("UNLIMITED", None)]
)
def test_a_time_limit_is_read_in_minutes(text: str, limit: int | None) -> None:
    assert minutes(text) == limit
