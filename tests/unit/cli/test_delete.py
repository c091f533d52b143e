"""The command `delete`: what it asks, refuses, removes and leaves."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Ask, refusal
from helpers.docs import file_in_docs
from helpers.job_service import JobService
from helpers.processes import Ended
from helpers.records import write_receipt, write_run
from helpers.terminals import Terminal

from mnist_cnn import process_identity, run_deletion, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import calls
from mnist_cnn.errors import BackendError
from mnist_cnn.files import locks

CHECKPOINTS = "mnist-cnn-checkpoints"


@pytest.fixture
def runs(home: Path) -> Path:
    """Two runs that have ended, and the registered model of one of them."""
    for name in ("a", "b"):
        write_run(home / "runs" / name, accuracy=0.9)
        (home / "runs" / name / "checkpoints").mkdir()
        (home / "runs" / name / "checkpoints" / "epoch-000001.npz").write_bytes(b"weights")
    (home / "models" / "m" / "1").mkdir(parents=True)
    return home / "runs"


def left(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir())


def listed(ask: Ask) -> dict[str, str]:
    return {row["run"]: row["status"] for row in ask("list", "--json").json()}


@pytest.fixture
def answering(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """A function that runs a command at a terminal where the user types these answers."""

    def run(answers: str, *arguments: str) -> Ended:
        stderr = Terminal()
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        monkeypatch.setattr(sys, "stderr", stderr)
        ended = ask(*arguments)
        return Ended(ended.code, ended.out, stderr.getvalue())

    return run


def test_yes_deletes_without_asking(ask: Ask, runs: Path) -> None:
    assert ask("delete", "a", "--yes") == Ended(0, "deleted runs/a\n", "")
    assert left(runs) == ["b"]
    assert (runs.parent / "models" / "m" / "1").is_dir()
    answer = {"run": "b", "deleted": True, "stored_files_deleted": 0}
    assert ask("delete", "latest", "--yes", "--json").json() == [answer]
    assert left(runs) == []


def test_yes_with_a_value_deletes_nothing(ask: Ask, runs: Path) -> None:
    assert refusal(ask("delete", "a", "--yes=false"))[0] == "--yes=false: --yes takes no value"
    assert left(runs) == ["a", "b"]


def test_without_a_terminal_nothing_is_deleted(ask: Ask, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    message, hint = refusal(ask("delete", "a", "b"))
    assert message == "delete asks first, but there is no terminal"
    assert hint == "add --yes: python -m mnist_cnn delete runs/a runs/b --yes"
    assert left(runs) == ["a", "b"]


def test_the_hint_to_add_yes_deletes_the_same_runs_in_the_same_way(
    ask: Ask, runs: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are pasted into a shell, perhaps after another run has become the latest one."""
    write_run(home / "other runs" / "c", accuracy=0.9)
    (home / "conf").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    options = ("runs_dir=other runs", "--keep-checkpoints", "force=true", "--config-dir", "conf")
    _, hint = refusal(ask("delete", "latest", *options))
    program, *words = shlex.split(hint.partition("mnist_cnn ")[2])
    expected = ["--config-dir", "conf", "other runs/c", *options[:1], "force=true", "--keep-checkpoints"]
    assert (program, words) == ("delete", [*expected, "--yes"])
    assert ask("delete", *words).code == 0
    assert (left(runs), left(home / "other runs")) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("answers", "deleted"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_at_a_terminal_only_a_yes_deletes(
    answering: Callable[..., Ended], runs: Path, answers: str, *, deleted: bool
) -> None:
    ended = answering(answers, "delete", "a", "b")
    shown, other, question = ended.err.partition("? [y/N] ")[0].splitlines()
    assert shown.startswith("runs/a: completed, 7 files with ")
    assert (other[:7], question) == ("runs/b:", "delete these 2 runs")
    assert (ended.code, left(runs)) == ((0, []) if deleted else (130, ["a", "b"]))
    assert deleted or ended.err.endswith("nothing was deleted\n")


def test_ctrl_c_at_the_question_deletes_nothing(
    answering: Callable[..., Ended], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda: signal.raise_signal(signal.SIGINT))
    ended = answering("", "delete", "a")
    assert (ended.code, left(runs)) == (130, ["a", "b"])
    assert ended.err.endswith("nothing was deleted\n")


def test_a_run_that_is_running_is_refused_and_no_other_deleted(ask: Ask, runs: Path) -> None:
    """This process stands for the trainer."""
    this = {"pid": os.getpid(), "process_started": process_identity.start_time(os.getpid())}
    write_receipt(runs / "b", Status.running, host=socket.gethostname(), **this)
    message, hint = refusal(ask("delete", "a", "b", "--yes"))
    assert (message, hint) == ("runs/b is running", "cancel it first: python -m mnist_cnn cancel runs/b")
    assert left(runs) == ["a", "b"]


def test_a_run_on_another_machine_needs_force(ask: Ask, runs: Path) -> None:
    write_receipt(runs / "a", Status.running, host="elsewhere", pid=1, process_started=1.0)
    message, hint = refusal(ask("delete", "a", "--yes"))
    assert message == "runs/a is running on elsewhere"
    assert hint.endswith("if that machine is gone: python -m mnist_cnn delete runs/a force=true")
    assert ask("delete", "a", "--yes", "force=true").code == 0
    assert left(runs) == ["b"]


def test_links_are_removed_and_not_followed(ask: Ask, runs: Path, home: Path) -> None:
    outside = home / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    (runs / "a" / "folder").symlink_to(outside)
    (runs / "a" / "checkpoints" / "folder").symlink_to(outside, target_is_directory=True)
    (runs / "a" / "file").symlink_to(outside / "kept.txt")
    assert ask("delete", "a", "--yes").code == 0
    assert left(runs) == ["b"]
    assert (outside / "kept.txt").read_text() == "kept"


def test_a_run_that_is_a_link_or_holds_another_run_is_refused(ask: Ask, runs: Path, home: Path) -> None:
    (runs / "link").symlink_to(runs / "a")
    message, hint = refusal(ask("delete", "link", "--yes"))
    assert message == f"runs/link is a link to {runs / 'a'}"
    assert hint == f"delete the run itself: python -m mnist_cnn delete {runs / 'a'}"
    shutil.copy(runs / "a" / "run.json", runs / "run.json")
    message, hint = refusal(ask("delete", str(home / "runs"), "--yes"))
    assert message.startswith(f"{home}/runs holds another run, {home}/runs/")
    assert left(runs) == ["a", "b", "link", "run.json"]


def test_a_run_that_holds_another_one_further_down_is_refused(ask: Ask, runs: Path) -> None:
    shutil.move(runs / "b", runs / "a" / "runs" / "more" / "b")
    message, hint = refusal(ask("delete", "a", "--yes"))
    assert message == "runs/a holds another run, runs/a/runs/more/b"
    assert hint == "delete it first, or move it away: python -m mnist_cnn delete runs/a/runs/more/b"
    assert ask("delete", "a/runs/more/b", "a", "--yes").code == 2
    assert ask("delete", "a/runs/more/b", "--yes").code == 0
    assert ask("delete", "a", "--yes").code == 0


def test_a_run_whose_receipt_is_damaged_is_left_to_the_user(ask: Ask, runs: Path) -> None:
    (runs / "a" / "run.json").write_text("{")
    message, hint = refusal(ask("delete", "a", "--yes"), 4)
    assert message.startswith("runs/a/run.json isn't a receipt")
    assert hint.endswith("remove the folder yourself: rm -r runs/a")
    assert left(runs) == ["a", "b"]


def test_delete_needs_a_run(ask: Ask) -> None:
    assert refusal(ask("delete"))[0] == "delete needs at least one RUN"
    assert refusal(ask("delete", "nowhere", "--yes"))[0] == "run nowhere: not found under runs"
    assert refusal(ask("delete", "a", "seed=1"))[0] == "delete does not take seed=1"


class Killed(BaseException):
    """Stands for the death of the process."""


def _removals(monkeypatch: pytest.MonkeyPatch, allowed: int) -> list[str]:
    """Let this many removals succeed and the process die at the next one; return what was removed."""
    done: list[str] = []
    for name in ("unlink", "rmdir"):
        original = getattr(os, name)

        def remove(path: Any, *, dir_fd: int | None = None, original: Callable[..., None] = original) -> None:
            if len(done) == allowed:
                raise Killed
            original(path, dir_fd=dir_fd)
            done.append(str(path))

        monkeypatch.setattr(os, name, remove)
    return done


def test_a_killed_deletion_can_be_repeated(ask: Ask, runs: Path) -> None:
    """The process dies before each of its removals."""
    steps = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            done = _removals(patch, steps)
            try:
                ask("delete", "a", "--yes")
            except Killed:
                pass
            else:
                break
        assert len(done) == steps
        if (runs / "a").exists():  # else it would count as being started
            os.utime(runs / "a", (1_000_000_000, 1_000_000_000))
        status = listed(ask).get("a")
        if (runs / "a" / "run.json").exists():
            assert status == "failed"
            assert "its deletion did not finish" in ask("list").out
            hint = ask("status", "a", "--json").json()["hint"]
            assert hint.startswith("finish it: python -m mnist_cnn delete runs/a")
        else:
            assert status is None
        shutil.rmtree(runs / "a", ignore_errors=True)
        shutil.copytree(runs / "b", runs / "a")
        steps += 1
    assert steps > 6
    assert left(runs) == ["b"]


def test_a_half_deleted_run_is_deleted_by_the_next_command(ask: Ask, runs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _removals(patch, 3)
        with pytest.raises(Killed):
            ask("delete", "a", "--yes")
    assert ask("delete", "a", "--yes").out == "deleted runs/a\n"
    assert left(runs) == ["b"]


def test_of_two_that_delete_one_run_one_says_that_it_is_gone(runs: Path) -> None:
    receipt = run_folder.read_receipt(runs / "a")
    together = threading.Barrier(2)

    def delete() -> str:
        together.wait()
        try:
            run_deletion.delete(runs / "a", receipt)
        except BackendError as error:
            return error.message
        return "deleted"

    with ThreadPoolExecutor(2) as pool:
        said = [future.result() for future in [pool.submit(delete) for _ in range(2)]]
    assert set(said) == {"deleted", f"{runs / 'a'} is gone: another process has deleted it"}
    assert left(runs) == ["b"]  # the lock has made no folder anew


def test_a_run_that_was_resumed_meanwhile_is_kept(
    ask: Ask, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process resumes it while the user reads the question."""
    hold = locks.hold

    def resumed(*arguments: Any) -> Any:
        write_receipt(runs / "a", Status.preparing)
        return hold(*arguments)

    monkeypatch.setattr(locks, "hold", resumed)
    ended = ask("delete", "a", "b", "--yes")
    assert ended.code == 4
    assert "error: runs/a has changed since it was checked, and was not deleted" in ended.err
    assert left(runs) == ["a"]  # the other one is deleted


def test_a_run_that_was_resumed_meanwhile_keeps_its_checkpoints_on_the_store(
    ask: Ask, home: Path, store: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process resumes it while the user reads the question."""
    before, hold = stored(store), locks.hold

    def resumed(*arguments: Any) -> Any:
        receipt = run_folder.read_receipt(home / "runs" / "far")
        resumed_receipt = dataclasses.replace(receipt, status=Status.preparing)
        run_folder.write_receipt(home / "runs" / "far", resumed_receipt)
        return hold(*arguments)

    monkeypatch.setattr(locks, "hold", resumed)
    message, _ = refusal(ask("delete", "far", "--yes"), 4)
    assert message == "runs/far has changed since it was checked, and was not deleted"
    assert stored(store) == before


def test_only_the_checkpoints_that_the_question_counted_are_deleted(
    answering: Callable[..., Ended], home: Path, store: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> str:
        store.write(f"{CHECKPOINTS}/far/2.npz", b"content")
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    assert answering("", "delete", "far").code == 0
    assert (stored(store), left(home / "runs")) == (["far/2.npz", "other/1.npz"], [])


@pytest.mark.usefixtures("runs")
def test_a_file_that_cannot_be_removed_is_named(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Any, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "unlink", refused)
    ended = ask("delete", "a", "--yes", "--json")
    assert ended.code == 4
    assert ended.json()[0]["error"].startswith("cannot remove ")
    assert "Permission denied" in ended.err
    assert listed(ask)["a"] == "failed"


def test_an_interrupt_lets_the_current_run_be_deleted(
    ask: Ask, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree

    def interrupted(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    ended = ask("delete", "a", "b", "--yes")
    assert (ended.code, ended.err.splitlines()[0]) == (130, "interrupted; not deleted: runs/b")
    assert left(runs) == ["b"]


@pytest.fixture
def store(home: Path) -> Iterator[JobService]:
    """A service whose store has two checkpoint files of the run `far`, and one of another run."""
    (home / "service").mkdir()
    with JobService(home / "service") as service:
        (home / "http_backend.py").write_text(file_in_docs("http_backend.py"))
        for name in ("far/1.npz", "far/1.sha256", "other/1.npz"):
            service.write(f"{CHECKPOINTS}/{name}", b"content")
        far: dict[str, Any] = {
            "backend": f"{home}/http_backend.py:HttpBackend",
            "backend_settings": {"url": service.url},
            "service": {"checkpoints": f"{CHECKPOINTS}/far"},
        }
        write_run(home / "runs" / "far", accuracy=0.9, **far)
        yield service


def stored(store: JobService) -> list[str]:
    return sorted(str(path.relative_to(store.files / CHECKPOINTS)) for path in store.files.rglob("*.*"))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [("y\ny\n", ["other/1.npz"]), ("y\nn\n", ["far/1.npz", "far/1.sha256", "other/1.npz"])],
)
def test_the_checkpoints_on_a_store_are_offered_for_deletion(
    answering: Callable[..., Ended], home: Path, store: JobService, answers: str, expected: list[str]
) -> None:
    ended = answering(answers, "delete", "far")
    assert ended.code == 0, ended.err
    assert "also delete the checkpoints in the cluster's store (2 files with 14 Bytes)? [y/N]" in ended.err
    assert (stored(store), left(home / "runs")) == (expected, [])


@pytest.mark.parametrize(("flags", "count"), [(("--yes",), 1), (("--yes", "--keep-checkpoints"), 3)])
def test_yes_deletes_the_checkpoints_too_unless_they_are_kept(
    ask: Ask, store: JobService, flags: tuple[str, ...], count: int
) -> None:
    assert ask("delete", "far", *flags, "--json").json()[0]["stored_files_deleted"] == 3 - count
    assert len(stored(store)) == count


def test_a_store_that_does_not_answer_can_be_left_alone(
    ask: Ask, home: Path, store: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ATTEMPTS", 1)  # retries would only take time
    store.__exit__()
    message, hint = refusal(ask("delete", "far", "--yes"), 4)
    assert message.endswith("does not answer")
    assert hint.endswith(
        "to leave its checkpoints there: python -m mnist_cnn delete runs/far --keep-checkpoints"
    )
    assert ask("delete", "far", "--yes", "--keep-checkpoints").code == 0
    assert left(home / "runs") == []


def test_a_receipt_that_names_another_folder_of_the_store_is_refused(
    ask: Ask, home: Path, store: JobService
) -> None:
    receipt = run_folder.read_receipt(home / "runs" / "far")
    receipt.service["checkpoints"] = f"{CHECKPOINTS}/far/.."
    run_folder.write_receipt(home / "runs" / "far", receipt)
    message, _ = refusal(ask("delete", "far", "--yes"), 4)
    assert message.endswith("is not a folder of checkpoints")
    assert len(stored(store)) == 3
