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
    draw_one(Path("one.png"))
    for name in ("latest", run, run.folder, run.folder / "model.onnx"):
        assert mnist_cnn.predict_file(name, "one.png", "runs_dir=.").label in range(10)


def draw_one(path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:16] = 255
    Image.fromarray(pixels).save(path)


README = Path(__file__).parent.parent.parent.parent / "README.md"


def test_the_example_in_the_readme_prints_a_digit(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_one(tmp_path / "digit.png")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    *_, prediction = example.split("\n\n")  # after the training
    exec(prediction, {"mnist_cnn": mnist_cnn, "run": mnist_cnn.attach(str(small_run))})  # noqa: S102
    assert re.match(r"\d [01]\.\d+ \(", capsys.readouterr().out)
