"""The command line as a real process: refusals, sweeps, and output that cannot be written."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import refusal
from helpers.processes import SMALL, command, run_command
from helpers.records import write_receipt
from helpers.refused import REFUSED

from mnist_cnn import run_folder
from mnist_cnn.backend import Status


def test_no_refusal_imports_tensorflow(tmp_path: Path) -> None:
    cases = [arguments.split() for arguments, _, _ in REFUSED]
    program = (
        "import json, sys\nfrom mnist_cnn.cli.main import main\n"
        f"codes = [main(arguments) for arguments in {[*cases, ['plan'], ['list'], ['--help']]!r}]\n"
        "heavy = {'tensorflow', 'keras', 'onnxruntime', 'matplotlib', 'azureml'} & set(sys.modules)\n"
        "print('\\n' + json.dumps([codes, sorted(heavy)]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [[2] * len(cases) + [0, 0, 0], []]
    message, _ = refusal(run_command("train.epochs=0", cwd=tmp_path))  # which exits with 2
    assert message.startswith("train.epochs=0: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The end for writing of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("flag", ["--help", "help"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_is_not_an_error(
    tmp_path: Path, broken_pipe: int, unbuffered: str, flag: str
) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command(flag), cwd=tmp_path, env=environment, stdout=broken_pipe, stderr=subprocess.PIPE
    ) as process:
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(
    ("words", "redirection", "code"),
    [
        ("plan", ">&-", 0),
        ("plan", ">/dev/full", 4),
        ("plan --json", ">/dev/full", 4),
        ("status nowhere", "2>/dev/full", 2),
    ],
)
def test_output_that_cannot_be_written_is_not_a_bug(
    tmp_path: Path, words: str, redirection: str, code: int
) -> None:
    line = f"{shlex.join(command(*words.split()))} {redirection}"
    ended = subprocess.run(
        ["/bin/sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


COSTLY_BACKEND = """
from mnist_cnn.backends.local import LocalBackend, LocalRun
LocalRun.cost_report = lambda self: iter(["the cluster has 1 node"])
"""


@pytest.mark.parametrize(("words", "code"), [("backend.device=gpu run_dir=run", 4), ("cancel done", 0)])
def test_a_cost_report_that_cannot_be_written_is_ignored(
    tmp_path: Path, broken_pipe: int, words: str, code: int
) -> None:
    (tmp_path / "own.py").write_text(COSTLY_BACKEND, encoding="utf-8")
    write_receipt(tmp_path / "done", Status.completed, backend=f"{tmp_path}/own.py:LocalBackend")
    backend = () if "done" in words else ("backend=own.py:LocalBackend", *SMALL)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}
    line, out = command(*words.split(), *backend), broken_pipe
    ended = subprocess.run(
        line, cwd=tmp_path, env=environment, stdout=out, stderr=out, timeout=120, check=False
    )
    assert ended.returncode == code


NETWORK_THAT_FAILS_WITH_9_UNITS = """
import keras

def build(config, input_shape, num_classes):
    units = config.dense_units
    first = keras.initializers.Constant(float("nan")) if units == 9 else "glorot_uniform"
    return keras.Sequential([
        keras.Input(input_shape),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation="relu"),
        keras.layers.Dense(num_classes, activation="softmax", kernel_initializer=first),
    ])
"""


def test_a_sweep_ranks_its_trials_and_exits_with_a_failure(tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(NETWORK_THAT_FAILS_WITH_9_UNITS, encoding="utf-8")
    sweep = ("--multirun", "model.file=network.py", "model.dense_units=1,9,64", "train.epochs=1")
    ended = run_command(*SMALL, *sweep, cwd=tmp_path, COLUMNS="80")
    assert ended.code == 5, ended.out + ended.err
    heads, _, *rows = ended.out.rstrip().splitlines()[-5:]
    assert heads.split()[:2] == ["settings", "accuracy"]
    units = [row.split()[0] for row in rows]
    assert units == ["model.dense_units=64", "model.dense_units=1", "model.dense_units=9"]
    accuracies = [float(row.split()[1].rstrip("%")) for row in rows[:2]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert max(map(len, rows)) <= 80
    folders = [run_folder.find(row.split()[-1], str(tmp_path / "runs")) for row in rows]
    statuses = [json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] for folder in folders]
    assert statuses == ["completed", "completed", "failed"]
    assert [(folder / "result.json").exists() for folder in folders] == [True, True, False]
    assert len(list((tmp_path / "runs").iterdir())) == 3
