"""A run from Python."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from helpers.processes import SMALL
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
