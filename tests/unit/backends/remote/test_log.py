"""The log of a run, how a run failed, and whether it is still being submitted. Needs no service."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from helpers.records import write_receipt

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import outcome
from mnist_cnn.backends.remote import log, node, state, submitter
from mnist_cnn.backends.remote.node import EPOCH, PROGRESS
from mnist_cnn.backends.remote.service import Handle, Limits, Observation
from mnist_cnn.errors import BackendError, MnistCnnError, TrainingError
from mnist_cnn.receipt import Receipt
from mnist_cnn.result import EpochRow, Progress
from mnist_cnn.training.distributed.group import WorkerLost

if TYPE_CHECKING:
    from pathlib import Path

BEGUN = f"{PROGRESS}{{}}\n"
FAILED_ITSELF = {"error": {"error": {"code": "UserError", "message": "JobFailed: exit code 1"}}}
OLD = time.time() - submitter.SUBMISSION_SECONDS - 60


def test_a_failure_is_read_from_the_log_of_the_last_start_only(tmp_path: Path) -> None:
    written = json.dumps({"exit_code": 5, "error": "the loss became nan", "hint": "lower it"})
    (tmp_path / "log.txt").write_text(f"x\nmnist_cnn failure {written}\n")
    error = log.failure(tmp_path)
    assert isinstance(error, TrainingError)
    assert (error.message, error.hint) == ("the loss became nan", "lower it")
    log.mark_restart(tmp_path)
    assert log.failure(tmp_path) is None


def test_the_log_says_that_a_worker_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node._print_failure(WorkerLost("worker 1 of 2 is gone", "resume"))  # noqa: SLF001
    (tmp_path / "log.txt").write_text(capsys.readouterr().out)
    error = log.failure(tmp_path)
    assert isinstance(error, WorkerLost)
    assert error.message == "worker 1 of 2 is gone"


def test_the_log_of_another_run_is_not_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt names the run that was submitted again."""
    write_receipt(tmp_path, Status.running, id="second")
    monkeypatch.setattr(log, "_piece", lambda *_: b"a line\n")
    service: Any = None
    assert log.fetch(service, Handle(tmp_path, "first", {})) is None
    assert not (tmp_path / "log.txt").exists()
    assert log.fetch(service, Handle(tmp_path, "second", {}))
    assert (tmp_path / "log.txt").read_text() == "a line\n"


def test_epochs_that_were_trained_elsewhere_stay_in_the_history(tmp_path: Path) -> None:
    rows = tuple(EpochRow(epoch, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0) for epoch in (1, 2, 3))
    run_folder.write_history(tmp_path, rows[:2])
    (tmp_path / "log.txt").write_text(f"{EPOCH}{json.dumps(dataclasses.asdict(rows[2]))}\n")
    assert tuple(log.history(tmp_path)) == rows
    (tmp_path / "metrics.jsonl").write_text("damaged")
    assert tuple(log.history(tmp_path)) == rows[2:]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("running 1 3", "row 1"), (2, 0, 0.75, 30.0)),
        (("running 1 3", "row 1", "running 2 5"), (2, 5, 0.5, 9.0)),
        (("running 2 5\nrow 2\nrow 3",), (3, 8, 0.75, 0.0)),
        (("row 1", "running 2 5"), (2, 5, 0.5, 9.0)),
    ],
)
def test_progress_is_never_older_than_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[str, ...], expected: tuple[float, ...]
) -> None:
    """The node prints its progress every few seconds, and a row at the end of each epoch."""
    write_receipt(tmp_path, Status.running, id="run")
    rows, service = 0, cast("Any", None)
    for piece in pieces:
        lines = ""
        for kind, epoch, *step in map(str.split, piece.splitlines()):
            if kind == "row":
                row = EpochRow(int(epoch), 0.25, 0.75, 0.3, 0.8, 1.0, 15.0)
                lines += f"{EPOCH}{json.dumps(dataclasses.asdict(row))}\n"
                rows += 1
            else:
                progress = Progress(kind, int(epoch), 3, int(step[0]), 8, 0.5, 0.5, 100.0, 9.0)
                lines += f"{PROGRESS}{json.dumps(dataclasses.asdict(progress))}\n"
        monkeypatch.setattr(log, "_piece", lambda *_, lines=lines: lines.encode())
        log.fetch(service, Handle(tmp_path, "run", {}))
    now = run_folder.read_progress(tmp_path)
    assert now is not None
    assert (now.epoch, now.step, now.accuracy, now.seconds_left) == expected
    assert len(run_folder.read_history(tmp_path)) == rows


def test_a_row_that_arrives_in_two_pieces_is_in_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_receipt(tmp_path, Status.running, id="run")
    row = EpochRow(1, 0.25, 0.75, 0.3, 0.8, 1.0, 15.0)
    line = f"{EPOCH}{json.dumps(dataclasses.asdict(row))}\n".encode()
    service: Any = None
    for piece in (line[:30], line[30:]):
        monkeypatch.setattr(log, "_piece", lambda *_, piece=piece: piece)
        log.fetch(service, Handle(tmp_path, "run", {}))
    assert run_folder.read_history(tmp_path) == (row,)


@pytest.mark.parametrize(
    ("logged", "details", "expected"),
    [
        ("", {"error": {"error": {"message": "The node was Preempted."}}}, BackendError),
        ("", FAILED_ITSELF, BackendError),
        (BEGUN, FAILED_ITSELF, TrainingError),
        (BEGUN, {"error": {"error": {"message": "the disk of the node died"}}}, BackendError),
        ("", {"error": None}, BackendError),
    ],
    ids=["preempted", "before-the-training", "in-the-training", "node", "no-reason"],
)
def test_without_an_error_in_the_log_the_service_says_how_a_run_failed(
    tmp_path: Path, logged: str, details: dict[str, Any], expected: type[MnistCnnError]
) -> None:
    (tmp_path / "log.txt").write_text(logged)
    seen = Observation("Failed", Status.failed, **outcome.failure(details))
    poll = state.Poll(Handle(tmp_path, "id", {}), seen, has_started=log.has_training_started(tmp_path))
    ended, _ = state.advance(state.State(), poll, Limits(1, 1, restarts=0), now=0.0)
    error = ended.ending.error if ended.ending else None
    assert error is not None
    assert type(error) is expected
    assert f"resume {tmp_path}" in error.hint


@pytest.mark.parametrize(
    ("entry", "is_at_work"),
    [
        (submitter.this_process(), True),
        (submitter.this_process().replace(f" {os.getpid()} ", " 4194305 "), False),  # beyond Linux' largest
        (f"another-machine 1 {OLD} {time.time()}", True),
        (f"another-machine 1 {OLD} {OLD}", False),
        ("damaged", False),
        ("", False),
    ],
    ids=["there", "gone", "elsewhere", "elsewhere-long-ago", "damaged", "none"],
)
def test_a_run_is_being_submitted_while_its_submitter_may_be_alive(entry: str, *, is_at_work: bool) -> None:
    """Of a process of another machine only the time is known."""
    service = {submitter.SUBMITTER: entry}
    receipt = Receipt("azure", "id", "digest", Status.preparing, "now", service=service)
    assert submitter.is_at_work(receipt) is is_at_work
