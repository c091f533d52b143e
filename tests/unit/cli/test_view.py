"""The commands `logs` and `open`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Ask, refusal
from helpers.records import write_receipt, write_run

from mnist_cnn import process_identity
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalRun

LOG = "10:00:00 mnist_cnn epoch 1/2\n\x1b[31mred\x1b[0m\n\nlast"
PICTURES = ["history.png", "confusion.png", "mistakes.png"]


@pytest.fixture
def run(home: Path) -> Path:
    """A completed run with a log and pictures."""
    folder = home / "runs" / "a"
    write_run(folder, accuracy=0.9)
    (folder / "log.txt").write_text(LOG)
    for name in PICTURES:
        (folder / name).write_bytes(b"picture")
    return folder


@pytest.mark.usefixtures("run")
def test_logs_prints_the_log_as_it_is(ask: Ask) -> None:
    for flags in ((), ("--follow",)):
        ended = ask("logs", "a", *flags)
        assert (ended.code, ended.out, ended.err) == (0, f"{LOG}\n", "")
        assert ask("logs", "a", "--json", *flags).json() == {"run": "a", "lines": LOG.splitlines()}


def test_logs_of_a_failed_run_exit_with_0(ask: Ask, run: Path) -> None:
    write_receipt(run, Status.failed, exit_code=5, error="the loss became nan")
    assert ask("logs", "latest", "--follow").code == 0


def test_follow_prints_new_lines_until_the_run_has_ended(
    ask: Ask, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process stands for the trainer, which prints a line at each pause and then ends."""
    this = {"pid": os.getpid(), "process_started": process_identity.start_time(os.getpid())}
    write_receipt(run, Status.running, host=socket.gethostname(), **this)
    printed = [" line", "\n", "next\n"]

    def sleep(_: float) -> None:
        with (run / "log.txt").open("a") as log:
            log.write(printed.pop(0))
        if not printed:
            write_receipt(run, Status.completed)

    monkeypatch.setattr(time, "sleep", sleep)
    assert ask("logs", "a", "--follow").out == f"{LOG} line\nnext\n"


@pytest.mark.usefixtures("run")
def test_an_interrupt_names_the_command_that_continues(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(_: LocalRun, **__: Any) -> Iterator[str]:
        yield "first"
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LocalRun, "logs", logs)
    ended = ask("logs", "a", "--follow")
    assert (ended.code, ended.out) == (130, "first\n")
    assert ended.err == "interrupted\ncontinue: python -m mnist_cnn logs runs/a --follow\n"


def test_an_empty_log_is_named_and_a_missing_one_an_error(ask: Ask, run: Path) -> None:
    (run / "log.txt").write_text("")
    ended = ask("logs", "a")
    assert (ended.code, ended.out, ended.err) == (0, "", "runs/a has printed nothing yet\n")
    (run / "log.txt").unlink()
    assert refusal(ask("logs", "a"), 4)[0].startswith("cannot read runs/a/log.txt")


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets the addresses which the user's browser is started with."""
    program, opened = tmp_path / "browser", tmp_path / "opened"
    program.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    program.chmod(0o755)
    opened.touch()
    monkeypatch.setenv("BROWSER", f"{program} %s")
    monkeypatch.delitem(sys.modules, "webbrowser", raising=False)  # it reads the variable once
    return opened


def uri(path: Path) -> str:
    return path.resolve().as_uri()


def test_open_shows_the_pictures_of_a_local_run(ask: Ask, run: Path, browser: Path) -> None:
    pages = [uri(run / name) for name in PICTURES]
    assert ask("open", "a").out == "".join(f"opened {page}\n" for page in pages)
    assert browser.read_text().splitlines() == pages
    assert ask("open", "a", "--json").json() == {"run": "a", "pages": pages, "opened": True}


def test_open_prefers_the_page_and_then_the_report(ask: Ask, run: Path, browser: Path) -> None:
    (run / "report.html").write_text("<p>")
    assert ask("open", "a").code == 0
    write_receipt(run, Status.running, backend="azure", url="https://ml.azure.com/runs/a")
    assert ask("open", "a").out == "opened https://ml.azure.com/runs/a\n"
    assert browser.read_text().splitlines() == [uri(run / "report.html"), "https://ml.azure.com/runs/a"]


def test_an_address_that_is_no_web_page_is_not_opened(ask: Ask, run: Path, browser: Path) -> None:
    write_receipt(run, Status.completed, url="file:///etc/passwd")
    assert ask("open", "a").code == 0
    assert "passwd" not in browser.read_text()


def test_without_a_display_open_prints_the_addresses(
    ask: Ask, run: Path, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that needs no display, such as lynx, would take over the terminal."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(browser.parent))
    (browser.parent / "browser").rename(browser.parent / "www-browser")
    ended = ask("open", "a")
    assert ended.code == 0
    *pages, note = ended.out.splitlines()
    assert pages == [uri(run / name) for name in PICTURES]
    assert note == "there is no browser or no display here; open it yourself"
    assert ask("open", "a", "--json").json()["opened"] is False
    assert browser.read_text() == ""


def test_a_run_with_nothing_to_open_says_what_to_do(ask: Ask, home: Path) -> None:
    write_receipt(home / "runs" / "a", Status.queued)
    message, hint = refusal(ask("open", "a"))
    assert message == "runs/a has no report, no plots and no page of its service"
    assert hint == "check its status: python -m mnist_cnn status runs/a"
