"""The live display in a terminal."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.scripted_run import ScriptedRun

from mnist_cnn.backend import Status
from mnist_cnn.cli.display import follow
from mnist_cnn.result import Progress
from mnist_cnn.terminal import output

if TYPE_CHECKING:
    import pytest

PROGRESS = Progress("running", 1, 2, 3, 40, 0.5, 0.75, 1234.0, 61.0)


def _read_to_end(controller: int) -> str:
    shown = b""
    while True:
        try:
            read = os.read(controller, 65536)
        except OSError:  # Linux reports EIO when the last writer has closed the terminal
            read = b""
        if not read:
            os.close(controller)
            return shown.decode()
        shown += read


def test_a_terminal_shows_one_live_line_below_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    controller, terminal = os.openpty()
    lines = ("12:00:00 mnist_cnn epoch 1/2  loss 0.6", "a library's line")
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        follow(ScriptedRun(Path("run"), Status.completed, lines=lines, now=PROGRESS), output.lossy(stream))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _read_to_end(controller))
    live = "epoch 1/2 step 3/40 loss 0.5000 accuracy 75.00% 1,234 images/s 1:01 left"
    assert f" {live} " in re.sub(r"[\r\n]", " ", text)
    assert "epoch 1/2  loss 0.6\r\n" in text
    assert "a library's line" not in text


def test_the_bar_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if a backend reports that it finalizes, without numbers."""
    reports = [PROGRESS, Progress("running", 2, 2, 40, 40), Progress("finalizing")]
    drawn: list[tuple[Any, Any]] = []
    monkeypatch.setattr(ScriptedRun, "progress", lambda run: reports.pop(0) if reports else None)
    monkeypatch.setattr(
        "rich.progress.Progress.update",
        lambda bar, task, *, description, completed, total: drawn.append((completed, total)),
    )
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        follow(ScriptedRun(Path("run"), Status.completed, lines=("one", "two", "three")), stream)
    _read_to_end(controller)
    assert drawn == [(3, 80), (80, 80), (None, None)]  # None leaves the bar as it is


def test_the_trainers_last_word_is_left_to_the_error() -> None:
    """`Run.wait` raises it, and the command prints that."""
    stream = io.StringIO()
    lines = ("12:00:00 mnist_cnn epoch 1/2  loss 0.6", "12:00:01 mnist_cnn stopped: the loss became nan")
    follow(ScriptedRun(Path("run"), Status.failed, lines=lines), stream)
    assert stream.getvalue() == "epoch 1/2  loss 0.6\n"
