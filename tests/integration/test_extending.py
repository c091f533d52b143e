"""The examples of docs/extending.md work as they stand there, from outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.docs import file_in_docs
from helpers.processes import SMALL, run_command, run_successfully


def test_a_third_backend_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "nice_backend.py").write_text(file_in_docs("nice_backend.py"))
    chosen = ("backend=nice_backend.py:NiceBackend", "backend.niceness=7")
    planned = run_command("plan", *chosen, cwd=tmp_path)
    assert "nice -n 7 " in planned.out
    run_successfully(*SMALL, "train.epochs=1", *chosen, "run_dir=run", cwd=tmp_path)
    status = run_command("status", str(tmp_path / "run"), "--json", cwd=tmp_path.parent).json()
    assert status["status"] == "completed"
    assert status["backend"] == f"{tmp_path / 'nice_backend.py'}:NiceBackend"
    refused = run_command("plan", chosen[0], "backend.niceness=77", cwd=tmp_path)
    assert refused.code == 2
    assert "backend.niceness=77: must be a whole number from 0 to 19" in refused.err


def test_a_custom_network_is_one_file_and_travels_in_the_job(tmp_path: Path) -> None:
    network = tmp_path / "residual.py"
    network.write_text(file_in_docs("residual.py"))
    run_successfully(*SMALL, "model.file=residual.py", "run_dir=run", cwd=tmp_path)
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    assert job["model"]["source"] == network.read_text()
    assert (tmp_path / "run" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def build(config, input_shape, num_classes:\n", "model.file=net.py, line 1: '(' was never closed"),
        ("def construct():\n    pass\n", "defines no function build"),
    ],
)
def test_a_network_file_that_cannot_work_is_refused_at_once(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "net.py").write_text(source)
    ended = run_command("model.file=net.py", cwd=tmp_path)
    assert ended.code == 2
    assert said in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_a_network_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import keras\n\n\ndef build(config, input_shape, num_classes):\n"
        "    layers = [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(3)]\n"
        "    return keras.Sequential(layers)\n"
    )
    ended = run_command(*SMALL, "model.file=net.py", cwd=tmp_path)
    assert ended.code == 2
    assert "net.py: its network maps (None, 28, 28, 1) to (None, 3)" in ended.err
    assert "Traceback" not in ended.out + ended.err


@pytest.mark.parametrize("activation", [None, "sigmoid", "relu"])
def test_a_network_that_returns_no_probabilities_is_refused_before_the_first_step(
    tmp_path: Path, activation: str | None
) -> None:
    (tmp_path / "net.py").write_text(
        "import keras\n\n\ndef build(config, input_shape, num_classes):\n"
        f"    dense = keras.layers.Dense(num_classes, activation={activation!r})\n"
        "    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), dense])\n"
    )
    ended = run_command(*SMALL, "model.file=net.py", cwd=tmp_path)
    assert ended.code == 2
    assert "net.py: its network returns no probabilities" in ended.err
    assert 'activation="softmax"' in ended.err
    assert "epoch 1/" not in ended.out


def test_an_option_of_a_group_is_one_file_in_a_config_dir(tmp_path: Path) -> None:
    (tmp_path / "my_conf" / "train").mkdir(parents=True)
    (tmp_path / "my_conf" / "train" / "gentle.yaml").write_text(file_in_docs("my_conf/train/gentle.yaml"))
    planned = run_successfully("plan", "--config-dir", "my_conf", "train=gentle", cwd=tmp_path)
    assert "5 epochs in batches of 64, adam, learning rate 0.001" in planned.out
