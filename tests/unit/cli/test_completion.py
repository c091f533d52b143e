"""What the Tab key completes, asked directly and in a real bash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from helpers.records import write_receipt

from mnist_cnn.backend import Status
from mnist_cnn.cli import completion
from mnist_cnn.cli.catalog import COMMANDS

if TYPE_CHECKING:
    from helpers.cli import Ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mnist-cnn st", ["status"]),
        ("python -m mnist_cnn st", ["status"]),
        ("mnist-cnn --config-dir conf2 st", ["status"]),
        ("mnist-cnn status ", ["latest", "2026-01-aa", "2026-02-bb"]),
        ("mnist-cnn resume 2026-02", ["2026-02-bb"]),
        ("mnist-cnn predict 2026-02-bb ", []),  # a picture
        ("mnist-cnn compare 2026-01-aa 2026-02", ["2026-02-bb"]),
        ("mnist-cnn delete --yes 2026-01-aa l", ["latest"]),
        ("mnist-cnn delete --k", ["--keep-checkpoints"]),
        ("mnist-cnn list sta", ["status="]),
        ("mnist-cnn list status=c", ["status=completed", "status=cancelled"]),
        ("mnist-cnn sta", ["status"]),
        ("mnist-cnn status runs_dir=elsewhere ", ["latest", "cc"]),
        ("mnist-cnn cluster ", ["show", "delete"]),
        ("mnist-cnn help sea", ["search"]),
        ("mnist-cnn --mul", ["--multirun"]),
        ("mnist-cnn train.opt", ["train.optimizer="]),
        ("mnist-cnn plan train.optimizer=ada", ["train.optimizer=adadelta", "train.optimizer=adam"]),
        ("mnist-cnn train=", [f"train={name}" for name in ("accurate", "balanced", "quick", "tutorial")]),
        ("mnist-cnn search search=", ["search=asha", "search=tpe"]),
        ("mnist-cnn save_h5=", ["save_h5=true", "save_h5=false"]),
        ("mnist-cnn train.epochs=", []),
        ("mnist-cnn backend.vm", []),
        ("mnist-cnn backend=azure backend.vm", ["backend.vm_size="]),
        ("mnist-cnn backend=azure backend.data", ["backend.data.overwrite="]),
        ("mnist-cnn backend=nowhere.py:Own backend.", []),
    ],
)
def test_the_last_word_of_a_line_is_completed(home: Path, line: str, expected: list[str]) -> None:
    for name in ("runs/2026-02-bb", "runs/2026-01-aa", "elsewhere/cc"):
        write_receipt(home / name, Status.completed)
    (home / "runs" / "not-a-run").mkdir()
    found = completion.candidates(line)
    assert [text for text in found if "adamw" not in text] == expected


def test_every_command_is_completed() -> None:
    assert set(completion.candidates("mnist-cnn ")) > set(COMMANDS)


@pytest.fixture
def bash(ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pexpect.spawn[str]]:
    """An interactive bash in which completion is on; its `python` and `mnist-cnn` run this package."""
    for name, arguments in (("mnist-cnn", "-m mnist_cnn "), ("python", "")):
        (home / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n', encoding="utf-8")
        (home / name).chmod(0o755)
    (home / "completion.bash").write_text(ask("--shell-completion", "install=bash").out, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TERM", "dumb")
    process = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], encoding="utf-8", timeout=60)
    process.sendline("source completion.bash; PS1='ready> '; echo begun")
    process.expect("\nbegun")
    yield process
    process.close(force=True)


@pytest.mark.parametrize("called", ["mnist-cnn", "python -m mnist_cnn"])
def test_bash_completes_both_forms_of_the_command(bash: pexpect.spawn[str], home: Path, called: str) -> None:
    write_receipt(home / "runs" / "2026-02-bb", Status.completed)
    typed = (("resu", "resume "), ("2026", "2026-02-bb "), ("train=q", "train=quick "), ("seed", "seed="))
    bash.expect_exact("ready> ")
    bash.send(f"{called} ")
    for text, completed in typed:
        bash.send(f"{text}\t")
        bash.expect_exact(completed)
    bash.send("\x01echo \r")  # Ctrl-A: print the line instead of running it
    bash.expect_exact(f"\n{called} resume 2026-02-bb train=quick seed=\r\n")


def test_bash_leaves_other_uses_of_python_alone(bash: pexpect.spawn[str]) -> None:
    bash.expect_exact("ready> ")
    bash.send("python compl\t")
    bash.expect_exact("python completion.bash ")
