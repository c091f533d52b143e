"""The command `report`: where it writes, what it prints, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import socket
from pathlib import Path

import pytest
from helpers.cli import Ask, refusal
from helpers.copies import change_receipt
from helpers.pages import parse, words

from mnist_cnn import run_folder
from mnist_cnn.backend import Status

OLD_RUNS = Path(__file__).parents[2] / "data" / "runs-of-schema-1"


@pytest.fixture
def run(home: Path) -> Path:
    """The folder of a completed run of an earlier version, `runs/completed`."""
    return Path(shutil.copytree(OLD_RUNS / "completed", home / "runs" / "completed"))


def test_report_writes_the_page_into_the_run_folder_and_prints_its_path(ask: Ask, run: Path) -> None:
    ended = ask("report", "completed")
    assert (ended.code, ended.out, ended.err) == (0, "runs/completed/report.html\n", "")
    assert words(next(parse((run / "report.html").read_text()).iter("h1"))) == "Run completed"
    assert ask("status", "completed", "--json").json()["damage"] is None


def test_report_writes_where_it_is_told(ask: Ask, home: Path, run: Path) -> None:
    answer = ask("report", "latest", "--output", "shared.html", "--json").json()
    assert answer == {"run": "completed", "status": "completed", "page": "shared.html", "problems": []}
    assert (home / "shared.html").is_file()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["completed", "azure"])
def test_the_command_on_the_page_makes_the_same_job(ask: Ask, home: Path, name: str) -> None:
    folder = Path(shutil.copytree(OLD_RUNS / name, home / "runs" / name))
    assert ask("report", name).code == 0
    tree = parse((folder / "report.html").read_text())
    plan, train = [shlex.split(words(block)) for block in tree.iter("pre")][-2:]
    assert plan == [*train[:3], "plan", *train[3:]]
    digest = ask(*plan[3:], "--json").json()["job"]
    assert run_folder.read_job(folder).digest == digest
    assert f"its digest is {digest}:" in words(tree)


def test_the_page_asks_for_the_initial_weights_and_names_no_path_of_its_author(ask: Ask, home: Path) -> None:
    folder = Path(shutil.copytree(OLD_RUNS / "completed", home / "runs" / "a"))
    job = run_folder.read_job(folder)
    train = dataclasses.replace(job.train, init="/home/author/first/model.keras", init_sha256="1" * 64)
    run_folder.write_job(folder, dataclasses.replace(job, train=train))
    assert ask("report", "a").code == 0
    tree = parse((folder / "report.html").read_text())
    assert (
        f"weights as model.keras in the current folder; the SHA-256 of their weights is {'1' * 64};"
        in words(tree)
    )
    for block in list(tree.iter("pre"))[-2:]:
        assert "train.init=model.keras" in words(block)
        assert "/home/author" not in words(block)


def test_a_damaged_run_gets_a_page_and_warnings(ask: Ask, run: Path) -> None:
    (run / "run.json").write_text("{")
    (run / "model.onnx").write_text("x")
    ended = ask("report", "completed")
    assert ended.code == 0
    first, second = ended.err.splitlines()
    assert first.startswith("warning: runs/completed/run.json isn't a receipt")
    assert second == "warning: runs/completed/model.onnx is not the file that the training wrote: 1 bytes"
    text = words(parse((run / "report.html").read_text()))
    assert f"Warning {first.removeprefix('warning: ')}" in text
    answer = ask("report", "completed", "--json").json()
    assert answer["status"] is None
    assert len(answer["problems"]) == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [(Status.running, "it was killed"), (Status.failed, "nan"), (Status.cancelled, "was cancelled")],
)
def test_the_page_of_a_run_that_ended_otherwise_says_why(
    ask: Ask, run: Path, status: Status, said: str
) -> None:
    (run / "result.json").unlink()
    change_receipt(run, status=status, host=socket.gethostname(), exit_code=5, error="nan", hint="lower it")
    if status is not Status.failed:
        change_receipt(run, error=None, hint=None)
    assert ask("report", "completed").code == 0
    text = words(parse((run / "report.html").read_text()))
    assert f"{'lost' if status is Status.running else status} · 3 epochs" in text
    assert "How it ended" in text
    assert said in text.partition("How it ended")[2]


def test_a_run_of_a_backend_that_is_not_installed_gets_a_page(ask: Ask, run: Path) -> None:
    (run / "result.json").unlink()
    change_receipt(run, backend="nowhere.py:None", status=Status.failed, error="no node", hint="ask")
    assert ask("report", "completed").code == 0
    assert "How it ended no node ask" in words(parse((run / "report.html").read_text()))


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ("completed --output result.json", "--output result.json: the name must end with .html", "run.html"),
        ("completed --output", "--output needs a value", "--output=FILE"),
        (
            "completed --output nowhere/a.html",
            "--output nowhere/a.html: there is no folder nowhere",
            "exists",
        ),
        ("completed --output page.html", "--output page.html: it is a folder", "exists"),
        ("completed train.epochs=3", "report does not take train.epochs=3", "runs_dir"),
        ("", "report needs one RUN", "latest"),
        ("another", "run another: not found under runs", "list"),
    ],
)
def test_report_refuses(ask: Ask, home: Path, run: Path, given: str, message: str, hint: str) -> None:  # noqa: PLR0913, PLR0917 - a table's columns
    (home / "page.html").mkdir()
    before = sorted(home.rglob("*"))
    printed = refusal(ask("report", *given.split()))
    assert printed[0] == message
    assert hint in printed[1]
    assert sorted(home.rglob("*")) == before
    assert run.is_dir()


def test_a_page_that_cannot_be_written_names_the_way_out(ask: Ask, run: Path) -> None:
    message, hint = refusal(ask("report", str(run), "--output", "/proc/page.html"), 4)
    assert message.startswith("cannot write /proc/page.html: ")
    assert hint.endswith(", or choose another file with --output FILE.html")


def test_a_resumed_run_loses_the_page_of_the_time_before(ask: Ask, run: Path) -> None:
    assert ask("report", "completed").code == 0
    run_folder.clear_leftovers(run)
    assert not (run / "report.html").exists()


def test_the_status_on_the_page_is_the_one_that_status_prints(ask: Ask, run: Path) -> None:
    assert json.loads(ask("report", "completed", "--json").out)["status"] == "completed"
    assert ask("status", "completed", "--json").json()["status"] == "completed"
    assert run.is_dir()
