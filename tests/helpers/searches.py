"""A small real search, here and on a cluster: what it found, and what each trial has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.processes import TINY

from mnist_cnn import run_folder
from mnist_cnn.launch import attach_to
from mnist_cnn.training.checkpoint import Checkpoints

SEARCH = (
    "search",
    *(text for text in TINY if "train_limit" not in text),
    "data.train_limit=600",
    "data.validation=100",
    "train.epochs=2",
    "train.learning_rate=tag(log, interval(0.001,1.0))",
    "search.trials=3",
    "search.reduction=3",
    "search.seed=1",
    "search.dir=found",
)
"""Three trials, of which the best one is promoted once all three have been paused, in whatever order."""


def outcome(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a search found, without what says where it ran."""
    trials = sorted(answer["trials"], key=lambda trial: int(trial["trial"]))
    found = {name: answer[name] for name in ("best", "accuracy", "epochs")}
    return found | {"trials": [{**trial, "run": Path(trial["run"]).name} for trial in trials]}


def trained_state(folder: Path) -> list[bytes]:
    """Return all variables of a trial after its last epoch: the weights and the optimizer's."""
    attach_to(folder).download_checkpoints()
    checkpoint = Checkpoints(folder / run_folder.CHECKPOINTS).newest()
    assert checkpoint is not None
    return [array.tobytes() for array in checkpoint.arrays]


def epochs_in_log(folder: Path) -> list[str]:
    """Return the epochs that a trial has trained, such as "1/2", also those that it trained twice."""
    words = (run_folder.trainer_line(line) for line in (folder / run_folder.LOG).read_text().splitlines())
    return [line.split()[1] for line in words if line and line.startswith("epoch ")]
