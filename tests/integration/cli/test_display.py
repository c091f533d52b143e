"""A run from Python, and the live display in a terminal."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from helpers.processes import SMALL, command
from PIL import Image

import mnist_cnn

if TYPE_CHECKING:
    import pytest


def test_a_run_from_python_takes_a_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    picture = np.zeros((28, 28), np.uint8)
    picture[4:24, 13:16] = 255
    Image.fromarray(picture).save("one.png")
    assert mnist_cnn.predict_file("latest", "one.png", "runs_dir=.").label in range(10)


def test_a_terminal_shows_one_live_line(tmp_path: Path) -> None:
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
        except OSError:  # Linux reports EIO when the last writer has closed the terminal
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
