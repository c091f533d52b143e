"""A run from Python, and what a person sees of it."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers.processes import SMALL, command

import mnist_cnn
from mnist_cnn.result import Progress
from mnist_cnn.terminal.log_stream import describe_progress, describe_seconds


def test_from_python_a_run_is_a_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = (*SMALL, "train.epochs=1")
    job = mnist_cnn.make_job(*overrides)
    assert dict(mnist_cnn.plan(*overrides).lines)["job"] == job.digest
    assert list(tmp_path.iterdir()) == []
    run = mnist_cnn.submit(job, "run_dir=first")
    shown = io.StringIO()
    mnist_cnn.follow(run, shown)
    result = run.wait()
    assert result.job_digest == job.digest
    assert re.search(r"^epoch 1/1  loss \d", shown.getvalue(), re.MULTILINE)
    assert "x_test (500, 28, 28, 1), y_test (500, 10)" in shown.getvalue()
    assert mnist_cnn.attach("latest", "runs_dir=.").wait() == result
    assert mnist_cnn.load_predictor(run.folder).classes == 10


def test_a_terminal_shows_one_live_line_with_everything_on_it(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        command(*SMALL, "train.epochs=1"),
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            read = os.read(controller, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not read:
            break
        shown += read
    os.close(controller)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    line = r"epoch 1/1 step \d+/40 loss \d\.\d{4} accuracy \d\.\d{4} [\d,]+ images/s \d+:\d\d left"
    assert re.search(line, text)
    assert "completed: test accuracy" in text


def test_a_live_line_fits_a_terminal_of_80_columns() -> None:
    progress = Progress("running", 12, 12, 469, 469, 0.0262, 0.9918, 2150.4, 1.2)
    line = describe_progress(progress)
    expected = "epoch 12/12 step 469/469 loss 0.0262 accuracy 0.9918 2,150 images/s 0:01 left"
    assert line == expected
    assert len(line) + 2 <= 80  # two for the spinner
    assert describe_progress(Progress("finalizing")) == "finalizing"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (307, "5:07"), (3599.7, "1:00:00"), (36061, "10:01:01")],
)
def test_times_are_shown_as_clocks_do(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
