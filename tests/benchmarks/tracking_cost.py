"""What a tracker costs per epoch: the epochs of a training with it and without, and one write.

Each round trains the tutorial's network with every choice of `track`, and takes the seconds of its epochs
from metrics.jsonl, and those of the whole command. MLflow is a server on this machine. A write is the time
until a tracker has an epoch; the process that follows the run spends it, not the trainer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from mnist_cnn import run_folder
from mnist_cnn.tracking import state, tracker_class
from mnist_cnn.tracking.tracker import TrackedRun

from .identity import TESTS
from .machine import command, seconds_of
from .report import Metric, Report, number, take_turns

OPTIONS = {
    "--rounds": number(3, "how many trainings with each tracker"),
    "--epochs": number(5, "epochs of each training; the first is not counted"),
    "--images": number(20_000, "number of training images"),
}
EPOCHS = Metric("seconds", "share of", digits=3)
WRITES = Metric("milliseconds", "share of")


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure."""
    sys.path.append(str(TESTS))
    from helpers.mlflow_server import mlflow_server

    with tempfile.TemporaryDirectory() as name, mlflow_server(Path(name)) as url:
        home = Path(name)
        size = [f"train.epochs={arguments.epochs + 1}", f"data.train_limit={arguments.images}"]
        trackers = {
            "none": [],
            "tensorboard": ["track=tensorboard"],
            "mlflow": ["track=mlflow", f"track.mlflow.uri={url}"],
        }
        whole: dict[str, list[float]] = {name: [] for name in trackers}

        def train(name: str) -> list[float]:
            folder = home / f"{name}-{len(whole[name])}"
            words = command("train=tutorial", *size, *trackers[name], f"run_dir={folder}")
            whole[name].append(seconds_of(words, home))
            return [row.seconds for row in run_folder.read_history(folder)[1:]]

        epochs = take_turns({name: partial(train, name) for name in trackers}, arguments.rounds)
        writes = {name: list(_writes(home / f"{name}-0", name)) for name in trackers if name != "none"}
    title = f"{arguments.images} images"
    return [
        Report(f"one epoch, {title}", EPOCHS, epochs, ("none",)),
        Report(f"the whole command, {arguments.epochs + 1} epochs, {title}", EPOCHS, whole, ("none",)),
        Report(
            "one write of an epoch",
            WRITES,
            {name: [1000 * value for value in values] for name, values in writes.items()},
        ),
    ]


def _writes(folder: Path, name: str) -> Iterator[float]:
    """Write the epochs of a completed run once more, and yield the seconds of each."""
    tracked = TrackedRun.of(folder)
    with closing(tracker_class(name)(tracked, state.read(folder, name))) as tracker:
        tracker.start()
        for point in tracked.points(after=0):
            started = time.perf_counter()
            tracker.write([point])
            yield time.perf_counter() - started
