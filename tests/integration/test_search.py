"""A small real search: killed and continued, interrupted, and again on data with another test set."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pexpect
import pytest
from helpers.processes import (
    TINY,
    command,
    end_of,
    run_successfully,
    start_command,
    wait_for_worker,
    wait_until,
)
from helpers.searches import epochs_in_log

import mnist_cnn
from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.data.idx import read_idx
from mnist_cnn.launch import attach_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGED = Path(mnist_cnn.__file__).parent / "data" / "mnist"
SEARCH = (
    "search",
    *(text for text in TINY if "_limit" not in text and "units" not in text),
    "train.epochs=2",
    "data.validation=100",
    "train.learning_rate=tag(log, interval(0.01,0.3))",
    "model.dense_units=4,8,13",
    "model.file=network.py",
    "search.trials=3",
    "search.reduction=2",
    "search.seed=3",
    "search.dir=found",
)
NETWORK = """
import keras
from keras import layers


def build(config, input_shape, num_classes):
    start = keras.initializers.Constant(float("nan")) if config.dense_units == 13 else "glorot_uniform"
    hidden = layers.Dense(config.dense_units, activation="relu")
    out = layers.Dense(num_classes, activation="softmax", kernel_initializer=start)
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), hidden, out])
"""
"""A network that diverges with 13 units, which the last trial draws."""


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_files(home: Path, seed: int) -> Path:
    """Write the network, and a set of 300 real training images and of test images that are noise."""
    (home / "network.py").write_text(NETWORK)
    folder = home / "data"
    folder.mkdir()
    noise = np.random.default_rng(seed)
    for stem, rank in (("images-idx3-ubyte.gz", 3), ("labels-idx1-ubyte.gz", 1)):
        write_idx(folder / f"train-{stem}", read_idx(PACKAGED / f"train-{stem}", rank)[:300])
        shape = (50, 28, 28)[:rank]
        write_idx(folder / f"t10k-{stem}", noise.integers(0, 10, shape, np.uint8))
    return folder


def trials_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials in their order, without what says where they are."""
    trials = [{name: value for name, value in trial.items() if name != "run"} for trial in answer["trials"]]
    return sorted(trials, key=lambda trial: int(trial["trial"]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a search, and its answer as JSON."""
    home = tmp_path_factory.mktemp("search")
    data = write_files(home, seed=1)
    return home, run_successfully(*SEARCH, f"data.dir={data}", "--json", cwd=home).json()


@pytest.mark.usefixtures("unmeasured")
def test_a_killed_search_continues_to_the_same_trials_whatever_the_test_set(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The command is killed in the first trial, and the trainer in the second; each epoch is trained once."""
    words = (*SEARCH, f"data.dir={write_files(tmp_path, seed=2)}", "--json")
    first = start_command(*words, cwd=tmp_path)
    wait_for_worker(tmp_path / "found" / "000", first)
    first.kill()
    first.communicate()
    second = start_command(*words, cwd=tmp_path)
    wait_until((tmp_path / "found" / "001").is_dir, second)
    wait_for_worker(tmp_path / "found" / "001", second)
    second.send_signal(signal.SIGINT)
    ended = end_of(second)
    assert ended.code == 130
    assert "continue it: python -m mnist_cnn search" in ended.err
    assert attach_to(tmp_path / "found" / "001").status() is Status.cancelled
    answer = run_successfully(*words, cwd=tmp_path).json()
    assert trials_of(answer) == trials_of(undisturbed[1])
    again = run_successfully(*words, cwd=tmp_path)
    assert again.json() == answer
    for trial in answer["trials"]:
        logged = epochs_in_log(tmp_path / trial["run"])
        assert logged == [f"{epoch}/2" for epoch in range(1, trial["epochs"] + 1)]


def test_the_best_trial_is_trained_to_its_end_and_no_other(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, answer = undisturbed
    trials = trials_of(answer)
    assert [trial["epochs"] for trial in trials].count(2) == 1
    best = trials[answer["best"]]
    assert (best["epochs"], best["accuracies"][-1]) == (2, answer["accuracy"])
    assert answer["epochs"] == sum(trial["epochs"] for trial in trials) == 3
    assert answer["epochs_without_halving"] == 6
    assert (home / answer["plot"]).read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_diverges_is_recorded(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, answer = undisturbed
    (failed,) = [trial for trial in answer["trials"] if trial["error"]]
    assert "model.dense_units=13" in failed["settings"]
    assert "the loss became" in failed["error"]
    assert run_folder.read_receipt(home / failed["run"]).status is Status.failed


def test_no_trial_evaluates_the_test_set(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, answer = undisturbed
    assert len(answer["trials"]) == 3
    for trial in answer["trials"]:
        folder = home / trial["run"]
        assert not (folder / run_folder.RESULT).exists()
        assert "test loss" not in (folder / run_folder.LOG).read_text()


def test_the_end_names_the_command_that_trains_the_best(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, answer = undisturbed
    ended = run_successfully(*SEARCH, f"data.dir={home / 'data'}", cwd=home)
    lines = ended.out.splitlines()
    assert lines[-1].strip() == answer["command"]
    assert json.dumps(answer["epochs"]) in lines[-4]
    assert "best" in ended.out


def test_a_terminal_shows_the_trials_while_they_train(tmp_path: Path) -> None:
    """The settings of the search and the outcome stay; what changes is replaced."""
    few = ("train.learning_rate=0.1,0.01", "train.epochs=2", "data.validation=50", "search.dir=found")
    process: pexpect.spawn[str] = pexpect.spawn(
        shlex.join(command("search", *TINY[:2], *TINY[3:], *few)),
        cwd=str(tmp_path),
        env={**os.environ, "TERM": "xterm"},
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 80),
    )
    with process:
        for shown in (
            r"trial 0: \w",
            "of 2 trials training",
            r"best so far: trial \d, \d+\.\d\d% after",
            "in found",
        ):
            process.expect(shown)
        process.expect(pexpect.EOF)
    assert process.exitstatus == 0
