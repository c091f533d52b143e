"""A disk that is full or read-only: the error says so, nothing is lost, and the run can be resumed.

The disk is a real one that really is full; only the moment at which it fills up is chosen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.copies import change_receipt
from helpers.disks import FILES, FILLER, Disk, small_disk
from helpers.fault_points import fault
from helpers.processes import REGISTER, TINY, Ended

from faults.readers.given_files import draw_digit
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = (*TINY, "train.epochs=2", "save_h5=true")
HALF = 8192
"""Bytes left for a larger file: writing it begins, and fails."""
WORKER_WRITES = (
    ("progress.json", 1, 0),
    ("epoch-000001.npz", 1, HALF),
    ("epoch-000002.sha256", 1, 0),
    ("metrics.jsonl", 1, 0),  # the history in the checkpoint that is resumed
    ("model.onnx", 1, HALF),
    ("history.png", 1, HALF),
    ("result.json", 1, 0),
)
"""FILE, COUNT and LEFT for each function that writes, in the order in which a resumed run meets them."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with small_disk(tmp_path_factory.mktemp("small-disk")) as made:
        yield made


@pytest.fixture(autouse=True)
def room(disk: Disk) -> Iterator[None]:
    """Make the disk writable and empty it after each test."""
    yield
    disk.remount(f"rw,nr_inodes={FILES}")
    disk.make_room()


@pytest.fixture(scope="module")
def whole(disk: Disk) -> dict[str, Any]:
    """The result of the undisturbed job."""
    ended = disk.run(*JOB, "run_dir=whole", "--json")
    assert ended.code == 0, ended.err
    result: dict[str, Any] = ended.json()["result"]
    return result


def check_message(ended: Ended, unwritten: str) -> None:
    """Check that a command said what could not be written, why, and what to do; and nothing else."""
    assert ended.code == BackendError.exit_code, ended.out + ended.err
    what, hint = ended.err.splitlines()
    assert re.fullmatch(rf"error: cannot write .*\b{re.escape(unwritten)}: No space left on device", what)
    assert hint.startswith("free ")
    assert ("run_dir=FOLDER" in hint) == (unwritten == "new")  # a run that exists cannot move
    assert "completed" not in ended.out


def checkpoints(run: Path) -> set[str]:
    """Return the names of the complete checkpoints."""
    return {path.stem for path in run.glob("checkpoints/*.sha256")}


@pytest.mark.long
def test_a_run_survives_a_full_disk_whatever_it_writes(disk: Disk, whole: dict[str, Any]) -> None:
    run, verb = disk.seen / "run", [*JOB, "run_dir=run"]
    for name, count, left in WORKER_WRITES:
        before = checkpoints(run)
        ended = disk.run(*verb, **disk.full_at("worker", name, count, left))
        check_message(ended, name)
        assert "resume it: python -m mnist_cnn resume run" in ended.err
        receipt = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert (receipt["status"], receipt["exit_code"]) == ("failed", BackendError.exit_code)
        assert name in receipt["error"]
        assert checkpoints(run) >= before
        assert not list(run.rglob(".writing-*"))
        assert not (run / "result.json").exists()
        disk.make_room()
        verb = ["resume", "run"]
    # The run is complete without its final receipt, because the result is there.
    ended = disk.run("resume", "run", "--json", **disk.full_at("worker", "run.json"))
    assert ended.code == 0, ended.err
    assert disk.run("status", "run", "--json").json()["status"] == "completed"
    result = ended.json()["result"]
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert [row["loss"] for row in result["history"]] == [row["loss"] for row in whole["history"]]
    assert "Traceback" not in (run / "log.txt").read_text(encoding="utf-8")


@pytest.mark.long
def test_several_workers_survive_a_full_disk(disk: Disk) -> None:
    job = (*JOB, "train.shards=2", "train.threads=1")
    alone = disk.run(*job, "run_dir=alone", "--json")
    assert alone.code == 0, alone.err
    full = disk.full_at("worker", "epoch-000002.npz", left=HALF)
    check_message(disk.run(*job, "run_dir=shared", "backend.workers=2", **full), "epoch-000002.npz")
    assert checkpoints(disk.seen / "shared") == {"epoch-000001"}
    disk.make_room()
    resumed = disk.run("resume", "shared", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json()["result"]["weights_sha256"] == alone.json()["result"]["weights_sha256"]


@pytest.mark.parametrize(
    ("name", "count"), [("job.json", 1), ("run.json", 1), ("progress.json", 1), ("run.json", 2)]
)
def test_a_run_that_cannot_start_on_a_full_disk_leaves_nothing(disk: Disk, name: str, count: int) -> None:
    check_message(disk.run(*JOB, "run_dir=new", **disk.full_at("command", name, count)), name)
    assert not (disk.seen / "new").exists()


def test_a_run_survives_a_log_line_that_does_not_fit(disk: Disk, whole: dict[str, Any]) -> None:
    full = fault("fill", "worker", "log epoch 1", path=disk.folder / FILLER)
    ended = disk.run(*JOB, "run_dir=silent", "--json", **full)
    assert ended.code == 0, ended.err
    assert ended.json()["result"]["weights_sha256"] == whole["weights_sha256"]
    log = (disk.seen / "silent" / "log.txt").read_text(encoding="utf-8")
    assert "epoch 2/2" in log
    assert "epoch 1/2" not in log
    assert "Traceback" not in log


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["model.keras", "model.onnx", "model.json"])
def test_a_model_that_does_not_fit_gets_no_version(disk: Disk, name: str) -> None:
    ended = disk.run("register", "whole", *REGISTER, **disk.full_at("command", name))
    check_message(ended, name)
    assert [path.name for path in (disk.seen / "models" / "m").iterdir()] == [".lock"]
    disk.make_room()
    assert "version 1" in disk.run("register", "whole", *REGISTER).out
    for path in (disk.seen / "models" / "m").glob("1/*"):
        path.unlink()
    (disk.seen / "models" / "m" / "1").rmdir()


def test_a_run_folder_that_cannot_be_made_is_an_error(disk: Disk) -> None:
    """This disk has bytes left, but no room for one more file."""
    used = os.statvfs(disk.seen)
    disk.remount(f"nr_inodes={used.f_files - used.f_ffree}")
    check_message(disk.run(*JOB, "run_dir=new"), "new")
    assert not (disk.seen / "new").exists()


@pytest.mark.usefixtures("whole")
def test_a_run_on_a_read_only_disk_can_be_used(disk: Disk, tmp_path: Path) -> None:
    draw_digit(tmp_path / "one.png")
    disk.remount("ro")
    for verb, *more in (["status"], ["follow"], ["predict", f"{tmp_path}/one.png"], ["cancel"]):
        ended = disk.run(verb, "whole", *more)
        assert ended.code == 0, verb
        assert all(line.startswith("warning: ") for line in ended.err.splitlines()), verb
    listed = disk.run("list", "runs_dir=.", "--json").json()
    assert "completed" in [row["status"] for row in listed if row["run"] == "whole"]
    elsewhere = f"register.dir={tmp_path}/models"
    assert "version 1" in disk.run("register", "whole", *REGISTER, elsewhere).out


@pytest.mark.usefixtures("whole")
def test_writing_to_a_read_only_disk_is_refused(disk: Disk) -> None:
    shutil.copytree(disk.seen / "whole", disk.seen / "lost")
    change_receipt(disk.seen / "lost", status=Status.running)
    (disk.seen / "lost" / "result.json").unlink()
    disk.remount("ro")
    for words in ([*JOB, "run_dir=new"], ["resume", "lost"], ["register", "whole", *REGISTER]):
        ended = disk.run(*words)
        assert ended.code == BackendError.exit_code, words
        what, hint = ended.err.splitlines()
        assert re.fullmatch("error: cannot write .*(new|lost|models/m).*: Read-only file system", what)
        is_there = words[0] == "resume"  # a run that exists cannot move
        assert hint.startswith("make it" if is_there else "choose a folder that you may write to with r")
    assert disk.run("status", "lost", "--json").json()["status"] == "lost"
