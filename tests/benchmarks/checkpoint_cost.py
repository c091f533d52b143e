"""Seconds that a checkpoint takes, and its share of an epoch: the tutorial's training, on this disk.

A checkpoint is all variables copied from TensorFlow, written, synced and renamed, its checksum after it, and
the oldest one removed.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mnist_cnn
from mnist_cnn.data import datasets
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints, MountedCheckpoints
from mnist_cnn.training.runtime import Runtime

from .report import Kind, Report, take_turns

ROUNDS = 3
ROUND = "how many epochs are timed, with five checkpoints after each (default: %(default)s)"
CHECKPOINTS = 5
EPOCH = "an epoch"
SECONDS = Kind("seconds", "share of", digits=3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark asks besides."""
    parser.add_argument(
        "--images", type=int, default=60_000, metavar="N", help="training images (default: all, 60,000)"
    )


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure, in this process."""
    import tensorflow as tf

    from mnist_cnn.training.epoch import Trainer

    tf.config.experimental.enable_op_determinism()
    job = mnist_cnn.make_job("train=tutorial", f"data.train_limit={arguments.images}")
    trainer = Trainer(job, datasets.load(job.data))
    runtime = Runtime.here(trainer.precision.value, "cpu", None)
    rows = [trainer.run_epoch(1, lambda progress: None)]  # whose time has what is allocated once in it
    numbers = itertools.count(2)

    def train() -> None:
        rows.append(trainer.run_epoch(next(numbers), lambda progress: None))

    def save(where: Checkpoints) -> None:
        history = tuple(rows)
        where.save(Checkpoint(job, runtime, history, trainer.state(), checkpoint.generators()))

    with tempfile.TemporaryDirectory(dir=".") as name:
        here, mounted = Checkpoints(Path(name) / "here"), MountedCheckpoints(Path(name) / "mounted")
        contestants = {
            EPOCH: lambda: timed(train),
            "a checkpoint": lambda: timed(lambda: save(here), CHECKPOINTS),
            "one for a mounted store": lambda: timed(lambda: save(mounted), CHECKPOINTS),
            "finding the newest": lambda: timed(here.newest, CHECKPOINTS),
        }
        values = take_turns(contestants, arguments.rounds)
        size = next(iter((Path(name) / "here").glob("*.npz"))).stat().st_size
    title = f"checkpoints of {size:,} bytes, {arguments.images} images"
    return [Report(title, SECONDS, values, (EPOCH,))]


def timed(act: Callable[[], object], times: int = 1) -> list[float]:
    """Do it so many times; return how long each took, in seconds."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return seconds
