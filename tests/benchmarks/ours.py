"""This package's training, timed per epoch, with its checkpoints and history.

    python tests/benchmarks/ours.py EPOCHS IMAGES [KEY=VALUE...]

Prints JSON: the seconds of each epoch and the test accuracy after it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import mnist_cnn
from mnist_cnn import run_folder
from mnist_cnn.training.train import train

if TYPE_CHECKING:
    from mnist_cnn.result import EpochRow, Progress

epochs, images, *settings = sys.argv[1:]
job = mnist_cnn.make_job("train=tutorial", f"train.epochs={epochs}", f"data.train_limit={images}", *settings)
times: list[float] = []
accuracies: list[float] = []


def on_progress(progress: Progress) -> None:
    """Write progress as a normal run does. The first call starts the clock."""
    if not times:
        times.append(time.perf_counter())
    run_folder.write_progress(folder, progress)


def on_epoch(row: EpochRow) -> None:
    times.append(time.perf_counter())
    accuracies.append(row.val_accuracy)


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    train(job, folder, on_epoch=on_epoch, on_progress=on_progress)
seconds = [after - before for before, after in pairwise(times)]
print(json.dumps({"seconds": seconds, "test_accuracy": accuracies}))
