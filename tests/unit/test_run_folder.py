"""The run folder: of two that want one, one gets it; what a killed command left is found and used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import SMALL
from helpers.records import write_receipt

from mnist_cnn import launch, run_creation, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.files import locks
from mnist_cnn.result import Progress

if TYPE_CHECKING:
    from mnist_cnn.job import Job
    from mnist_cnn.receipt import Receipt

HOUR_AGO = 1_000_000_000


@pytest.fixture(scope="module")
def job() -> Job:
    return launch.make_job(*SMALL)


def leave(folder: Path, job: Job) -> Path:
    """Leave a folder as a command does that is killed before it writes the receipt."""
    folder.mkdir(parents=True)
    run_folder.write_job(folder, job)
    run_folder.write_progress(folder, Progress("preparing"))
    for name in (".lock", ".start", ".writing-ab12.json"):
        (folder / name).touch()
    return folder


def refusal(folder: Path, job: Job) -> str:
    with pytest.raises(ConfigurationError) as refused, run_creation.create(str(folder), "", job):
        pass
    return refused.value.message


def test_the_same_command_takes_over_what_a_killed_one_left(tmp_path: Path, job: Job) -> None:
    left = leave(tmp_path / "run", job)
    with run_creation.create(str(left), "", job) as folder:
        write_receipt(folder, Status.preparing)
    assert run_folder.read_job(left) == job
    assert not list(left.glob(".writing-*"))
    assert "already holds a run" in refusal(left, job)


def test_a_folder_with_anything_else_is_not_taken_over(tmp_path: Path, job: Job) -> None:
    left = leave(tmp_path / "run", job)
    assert "holds another job" in refusal(left, launch.make_job(*SMALL, "seed=2"))
    (left / "notes.txt").touch()
    assert "is not empty and is not a run" in refusal(left, job)
    (left / "notes.txt").unlink()
    (left / "job.json").write_text('{"job": "of another program"}')
    assert "is not empty and is not a run" in refusal(left, job)
    assert (left / "job.json").read_text() == '{"job": "of another program"}'


def test_a_folder_in_which_a_run_is_just_started_is_not_taken_over(tmp_path: Path, job: Job) -> None:
    with run_creation.create(str(tmp_path / "run"), "", job) as folder:
        assert "another process is just starting a run there" in refusal(folder, job)
        write_receipt(folder, Status.preparing)
    assert run_folder.read_job(folder) == job


def test_a_start_that_fails_leaves_no_folder(tmp_path: Path, job: Job) -> None:
    with pytest.raises(KeyboardInterrupt), run_creation.create(None, str(tmp_path / "runs"), job):
        raise KeyboardInterrupt
    assert list((tmp_path / "runs").iterdir()) == []


def test_only_what_a_killed_command_left_counts_as_unstarted(tmp_path: Path, job: Job) -> None:
    left, young = leave(tmp_path / "left", job), leave(tmp_path / "young", job)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (leave(tmp_path / "used", job) / "model.keras").touch()
    write_receipt(leave(tmp_path / "run", job), Status.preparing)
    for folder in tmp_path.iterdir():
        os.utime(folder, (HOUR_AGO, HOUR_AGO))
    os.utime(young)  # it may be about to start
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()  # a killed `delete` may leave it
    os.utime(tmp_path / "locked", (HOUR_AGO, HOUR_AGO))
    assert list(filter(run_creation.is_unstarted, tmp_path.iterdir())) == [left]


def test_of_two_starts_that_draw_one_name_the_second_draws_again(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawn").mkdir()
    names = iter(["drawn", "drawn", "other"])
    monkeypatch.setattr(run_creation, "new_name", lambda: next(names))
    with run_creation.create(None, str(tmp_path), job) as folder:
        assert folder == tmp_path / "other"
    assert list((tmp_path / "drawn").iterdir()) == []


@pytest.mark.parametrize("target", ["nowhere", "file"])
def test_a_runs_dir_that_is_no_folder_is_an_error(tmp_path: Path, job: Job, target: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "runs").symlink_to(target)
    fails = pytest.raises(BackendError, match="cannot write the run folder")
    with fails, run_creation.create(None, str(tmp_path / "runs"), job):
        pass


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of all files and folders that are synced to disk."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    return synced


def test_the_folders_of_a_new_run_survive_a_power_failure(
    tmp_path: Path, job: Job, synced: list[int]
) -> None:
    with run_creation.create(None, str(tmp_path / "a" / "runs"), job) as folder:
        pass
    for parent in (tmp_path, tmp_path / "a", tmp_path / "a" / "runs", folder):
        assert parent.stat().st_ino in synced


@pytest.mark.parametrize("name", ["job.json", "run.json", "metrics.jsonl"])
def test_what_a_run_cannot_do_without_is_synced(
    tmp_path: Path, job: Job, synced: list[int], name: str
) -> None:
    write: dict[str, Callable[[], object]] = {
        "job.json": lambda: run_folder.write_job(tmp_path, job),
        "run.json": lambda: write_receipt(tmp_path, Status.running),
        "metrics.jsonl": lambda: run_folder.write_history(tmp_path, []),
    }
    write[name]()
    assert (tmp_path / name).stat().st_ino in synced


# Receipts


def test_only_the_named_run_changes_its_receipt(tmp_path: Path) -> None:
    receipt = write_receipt(tmp_path, Status.running, id="second")
    assert not run_folder.update_receipt(tmp_path, "first", lambda _: pytest.fail("of another run"))
    run_folder.record_end_of(tmp_path, "first", Status.failed, BackendError("of another run"))
    assert run_folder.read_receipt(tmp_path) == receipt
    run_folder.record_end_of(tmp_path, "second", Status.failed, BackendError("its own"))
    assert run_folder.read_receipt(tmp_path).error == "its own"


def test_a_receipt_is_read_and_changed_under_the_folders_lock(tmp_path: Path) -> None:
    receipt = write_receipt(tmp_path, Status.running)

    def change(now: Receipt) -> Receipt:
        with pytest.raises(locks.LockTimeout), run_folder.lock(tmp_path, 0):
            pass
        return now

    assert run_folder.update_receipt(tmp_path, receipt.id, change)


@pytest.mark.parametrize("other", [{"pid": 8}, {"host": "the-other"}, {"process_started": 2.0}])
def test_a_process_is_its_number_its_start_and_its_machine(tmp_path: Path, other: dict[str, object]) -> None:
    same = {"pid": 7, "host": "this", "process_started": 1.0}
    ours = write_receipt(tmp_path, Status.running, **same)
    run_folder.check_still_ours(tmp_path, ours)
    write_receipt(tmp_path, Status.running, **same | other)
    with pytest.raises(BackendError, match="is trained by another process now"):
        run_folder.check_still_ours(tmp_path, ours)


def test_every_user_may_read_what_a_new_file_lets_them(tmp_path: Path, job: Job) -> None:
    """`tempfile` makes files that only their owner can read."""
    before = os.umask(0o027)
    try:
        run_folder.write_job(tmp_path, job)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "job.json").stat().st_mode) == 0o640
