"""Listing, comparing, viewing and deleting runs as real processes, with real runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pexpect
import pytest
from helpers.processes import command, run_successfully

from mnist_cnn import run_folder


@pytest.fixture
def home(tmp_path: Path, small_run: Path) -> Path:
    """A folder with two copies of a completed run, one of them with other threads in its result."""
    for name in ("first", "second"):
        shutil.copytree(small_run, tmp_path / "runs" / name)
    return tmp_path


def test_a_trained_run_is_listed_compared_and_printed(home: Path) -> None:
    listed = run_successfully("list", "model=compact", "--json", cwd=home).json()
    assert [(row["run"], row["settings"]["model"]) for row in listed] == [
        ("first", "compact"),
        ("second", "compact"),
    ]
    compared = run_successfully("compare", "first", "second", cwd=home).out.splitlines()
    assert compared[-2:] == ["the weights are equal", "the curves are in comparison.png"]
    log = (home / "runs" / "first" / "log.txt").read_text(encoding="utf-8")
    assert run_successfully("logs", "first", cwd=home).out == log


@pytest.mark.parametrize("words", ["list", "logs first", "compare first second"])
def test_a_reader_that_has_gone_is_not_an_error(home: Path, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(*words.split()), cwd=home, env=environment, stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert (home / "comparison.png").exists() == words.startswith("compare")


def test_delete_asks_at_a_terminal(home: Path) -> None:
    words = command("delete", "first", "second")
    asked = pexpect.spawn(words[0], words[1:], cwd=str(home), encoding="utf-8", timeout=60)
    asked.expect_exact("delete these 2 runs? [y/N] ")
    assert len(list((home / "runs").iterdir())) == 2
    asked.sendline("y")
    asked.expect_exact("deleted runs/second")
    asked.expect(pexpect.EOF)
    asked.close()
    assert (asked.exitstatus, list((home / "runs").iterdir())) == (0, [])


def test_a_deletion_with_a_closed_stdout_is_finished(home: Path) -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >/dev/full', "sh", *command("delete", "first", "second", "--yes")],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "the command continues without it" in ended.stderr
    assert run_folder.all_runs(str(home / "runs")) == []
