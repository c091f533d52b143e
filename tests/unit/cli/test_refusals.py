"""A refused command says what is wrong and what to do, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.cli import Ask, refusal
from helpers.records import write_run
from helpers.refused import REFUSED

from mnist_cnn.backend import Status
from mnist_cnn.backends import local
from mnist_cnn.training import tensorflow_import


@pytest.mark.parametrize(("arguments", "message", "hint"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_refusal_is_a_message_and_a_hint_and_leaves_nothing(
    ask: Ask, home: Path, arguments: str, message: str, hint: str
) -> None:
    printed = refusal(ask(*arguments.split()))
    assert message in printed[0]
    assert hint in printed[1]
    assert list(home.iterdir()) == []


def test_a_refusal_as_json_has_message_and_hint(ask: Ask) -> None:
    ended = ask("--json", "train.epoch=3")
    assert ended.code == 2
    expected = {"error": "unknown key train.epoch", "hint": "did you mean train.epochs?", "exit_code": 2}
    assert ended.json() == expected


def test_missing_data_exit_3_and_leave_nothing(ask: Ask, home: Path) -> None:
    for arguments in (["data.dir=nowhere"], ["--multirun", "data.dir=nowhere", "seed=1,2"]):
        message, _ = refusal(ask(*arguments), 3)
        assert message.startswith("data.dir=nowhere: ")
        assert list(home.iterdir()) == []


def test_a_runs_dir_that_cannot_be_written_exits_4(ask: Ask, home: Path) -> None:
    (home / "file").write_text("in the way", encoding="utf-8")
    message, hint = refusal(ask("runs_dir=file/runs"), 4)
    assert message.startswith("cannot write the run folder file/runs/")
    assert "runs_dir=FOLDER" in hint
    assert [path.name for path in home.iterdir()] == ["file"]


def test_a_run_dir_with_other_files_is_refused_and_kept(ask: Ask, home: Path) -> None:
    (home / "full").mkdir()
    (home / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    assert refusal(ask("run_dir=full"))[0] == "run_dir=full is not empty and is not a run"
    assert refusal(ask("run_dir=full/notes.txt"))[0] == "run_dir=full/notes.txt is a file"
    assert [path.name for path in home.rglob("*")] == ["full", "notes.txt"]


SEARCH = ("search", "data.validation=100", "model.dense_units=8,16")
COMMANDS = ((), ("plan",), ("--multirun", "seed=1,2"), ("plan", "--multirun", "seed=1,2"), SEARCH)
NOT_HERE = {"backend.device=gpu": 4, "backend=slurm": 2}


@pytest.fixture
def without_gpu_or_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has neither, whatever it has."""
    monkeypatch.setenv("PATH", "")

    def refuse() -> None:
        raise tensorflow_import.no_gpu()

    monkeypatch.setattr(local, "check_gpu", refuse)


@pytest.mark.usefixtures("without_gpu_or_slurm")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("where", NOT_HERE)
def test_a_backend_that_is_missing_here_leaves_no_run(
    ask: Ask, home: Path, words: tuple[str, ...], where: str
) -> None:
    ended = ask(*words, where)
    if (words[:1], where) != (("plan",), "backend=slurm"):  # that plan can be made anywhere
        assert refusal(ended, NOT_HERE[where])
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("without_gpu_or_slurm")
@pytest.mark.parametrize("where", NOT_HERE)
def test_a_run_that_cannot_be_resumed_here_stays_as_it_is(ask: Ask, home: Path, where: str) -> None:
    write_run(home / "runs" / "a", status=Status.paused)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert refusal(ask("resume", "a", where), NOT_HERE[where])
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_debugging_shows_the_traceback_of_a_refusal(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_CNN_DEBUG", "1")
    ended = ask("train.epochs=0")
    assert ended.code == 2
    assert "Traceback" in ended.err


def test_slurms_programs_without_a_cluster_leave_nothing(
    ask: Ask, home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs are stand-ins, which answer as Slurm's do without a configuration."""
    programs = tmp_path_factory.mktemp("programs")
    for name in ("sbatch", "scontrol"):
        (programs / name).write_text("#!/bin/sh\necho 'no configuration source' >&2; exit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    message, _ = refusal(ask("backend=slurm"), 4)
    assert message.startswith("cannot ask Slurm for its partitions")
    assert list(home.iterdir()) == []
