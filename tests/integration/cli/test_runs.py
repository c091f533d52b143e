"""Commands about a completed run: list, status, follow, cancel, resume, register and predict."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from helpers.cli import Ask, refusal
from PIL import Image

from mnist_cnn.backends.local import LocalRun
from mnist_cnn.cli import report
from mnist_cnn.prediction.ink import SHAPES_WARNING

if TYPE_CHECKING:
    import pytest


def test_status_finds_a_run_by_name_path_and_latest(ask: Ask, completed_run: Path) -> None:
    accuracy = json.loads((completed_run / "result.json").read_text(encoding="utf-8"))["accuracy"]
    runs_dir = f"runs_dir={completed_run.parent}"
    for arguments in ([str(completed_run)], ["run", runs_dir], ["latest", runs_dir]):
        lines = ask("status", *arguments).out.splitlines()
        assert lines[0].startswith("run is completed (local, ")
        time = r"2 epochs in \d+:\d\d( \(training: \d+:\d\d\))?"
        assert re.fullmatch(rf"test accuracy {accuracy:.2%} after {time}", lines[1])
        assert re.fullmatch(r"weakest class: \d, F1 [\d.]+% \(precision [\d.]+%, recall [\d.]+%\)", lines[2])
        shown = ask("status", "--json", *arguments).json()
        expected = {"status": "completed", "accuracy": accuracy, "folder": str(completed_run)}
        assert shown | expected == shown
        assert [row["epoch"] for row in shown["history"]] == [1, 2]
        assert shown["saved_epoch"] == 2
        right = sum(round(scores["recall"] * scores["support"]) for scores in shown["classes"])
        assert right / sum(scores["support"] for scores in shown["classes"]) == accuracy
    assert refusal(ask("status", "", runs_dir))[0] == "status needs one RUN"


def test_follow_prints_a_completed_runs_log_again(ask: Ask, completed_run: Path) -> None:
    ended = ask("follow", str(completed_run))
    assert ended.code == 0, ended.err
    assert "epoch 2/2" in ended.out
    assert "completed: test accuracy" in ended.out
    assert f"predict {completed_run} IMAGE.png" in ended.out
    result = json.loads((completed_run / "result.json").read_text(encoding="utf-8"))
    assert ask("follow", "--json", str(completed_run)).json()["result"] == result


def test_a_completed_run_is_neither_cancelled_nor_resumed(ask: Ask, completed_run: Path) -> None:
    assert "had already ended: completed" in ask("cancel", str(completed_run)).out
    assert refusal(ask("resume", str(completed_run)))[0] == f"{completed_run} is completed"


def test_register_gives_one_run_one_version(ask: Ask, home: Path, completed_run: Path) -> None:
    arguments = [str(completed_run), "register.name=digits", "register.dir=shelf", "register.min_accuracy=0"]
    place = Path("shelf") / "digits" / "1"
    assert ask("register", *arguments).out == f"registered: digits version 1, {place}\n"
    assert ask("register", *arguments).out == f"already registered: digits version 1, {place}\n"
    said = {"name": "digits", "version": 1, "location": str(place), "is_new": False}
    assert ask("register", "--json", *arguments).json() == said
    assert (home / place / "model.keras").read_bytes() == (completed_run / "model.keras").read_bytes()


def test_register_needs_a_name_and_an_accurate_model(ask: Ask, home: Path, completed_run: Path) -> None:
    register = ("register", str(completed_run))
    message, hint = refusal(ask(*register))
    assert message == "register needs a name"
    assert "register.name=mnist-cnn" in hint
    message, hint = refusal(ask(*register, "register.name=digits", "register.min_accuracy=1"), 4)
    assert "is below register.min_accuracy=1" in message
    assert "register.min_accuracy" in hint
    assert list(home.iterdir()) == []


def test_predict_prints_a_digit_and_its_probability(ask: Ask, home: Path, completed_run: Path) -> None:
    packed = importlib.resources.files("mnist_cnn") / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"
    pixels = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint8, count=784, offset=16)
    for name in ("seven.png", "again.png"):
        Image.fromarray(pixels.reshape(28, 28)).save(home / name)
    ended = ask("predict", str(completed_run), "seven.png", "again.png")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seven.png", "again.png"]
    assert all(re.fullmatch(r".*: \d  \(\d+\.\d%\)", line) for line in lines)
    said = ask("predict", "--json", str(completed_run), "seven.png").json()
    assert said[0]["image"] == "seven.png"
    assert f"seven.png: {said[0]['label']}  ({said[0]['probability']:.1%})" == lines[0]


def test_a_picture_that_cannot_be_read_exits_3(ask: Ask, home: Path, completed_run: Path) -> None:
    (home / "notes.png").write_text("no picture", encoding="utf-8")
    for name in ("notes.png", "nowhere.png"):
        assert name in refusal(ask("predict", str(completed_run), name), 3)[0]


def test_predict_answers_for_the_pictures_that_it_can_read(ask: Ask, home: Path, completed_run: Path) -> None:
    pixels = np.zeros((60, 80), np.uint8)
    pixels[10:50, 20:25] = 255
    Image.fromarray(pixels).save(home / "one.png")
    pixels[10:50, 50:55] = 255
    Image.fromarray(pixels).save(home / "eleven.png")
    (home / "notes.png").write_text("no picture", encoding="utf-8")
    pictures = ["notes.png", "one.png", "nowhere.png", "eleven.png"]
    ended = ask("predict", str(completed_run), *pictures)
    assert ended.code == 3
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == ["one.png", "eleven.png"]
    assert "error: nowhere.png does not exist" in ended.err
    assert f"warning: eleven.png: {SHAPES_WARNING}" in ended.err.splitlines()
    said = ask("predict", "--json", str(completed_run), *pictures)
    assert (said.code, said.err) == (3, ended.err)
    assert [row["image"] for row in said.json()] == pictures
    assert said.json()[2]["error"] == "nowhere.png does not exist"
    assert SHAPES_WARNING not in said.json()[1]["warnings"]
    assert SHAPES_WARNING in said.json()[3]["warnings"]


def test_a_run_dir_that_is_a_run_is_refused(ask: Ask, completed_run: Path) -> None:
    message, hint = refusal(ask(f"run_dir={completed_run}"))
    assert message == f"run_dir={completed_run} already holds a run"
    assert f"resume {completed_run}" in hint


def test_an_interrupt_says_what_became_of_the_run(
    ask: Ask, completed_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "status", interrupted)
        assert ask("cancel", str(completed_run)).err == (
            f"interrupted; {completed_run} may still be running\n"
            f"cancel it: python -m mnist_cnn cancel {completed_run}\n"
        )
    monkeypatch.setattr(report, "print_completed", interrupted)  # the run has ended already
    assert ask("follow", str(completed_run)).err == "interrupted\n"
