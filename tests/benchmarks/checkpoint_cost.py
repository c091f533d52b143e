"""Seconds per checkpoint, and its share of an epoch: the tutorial's training, on this disk.

A checkpoint copies all variables from TensorFlow, writes, syncs and renames the file, writes its checksum,
and removes the oldest checkpoint.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mnist_cnn
from mnist_cnn.data import datasets
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints, MountedCheckpoints
from mnist_cnn.training.runtime import Runtime

from .report import IMAGES, Metric, Report, number, take_turns, timed

OPTIONS = {
    "--rounds": number(3, "how many epochs are timed, with five checkpoints after each"),
    "--images": IMAGES,
}
CHECKPOINTS = 5
SECONDS = Metric("seconds", "share of", digits=3)


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure, in this process."""
    import tensorflow as tf

    from mnist_cnn.training.epoch import Trainer

    tf.config.experimental.enable_op_determinism()
    job = mnist_cnn.make_job("train=tutorial", f"data.train_limit={arguments.images}")
    trainer = Trainer(job, datasets.load(job.data))
    runtime = Runtime.here(trainer.precision.value, "cpu", None)
    rows = [trainer.run_epoch(1, lambda progress: None)]  # not timed: the first epoch allocates memory

    def train() -> None:
        rows.append(trainer.run_epoch(len(rows) + 1, lambda progress: None))

    def save(where: Checkpoints) -> None:
        where.save(Checkpoint(job, runtime, tuple(rows), trainer.state(), checkpoint.generators()))

    with tempfile.TemporaryDirectory(dir=".") as name:
        here, mounted = Checkpoints(Path(name) / "here"), MountedCheckpoints(Path(name) / "mounted")
        contestants = {
            "one epoch": lambda: timed(train),
            "one checkpoint": lambda: timed(lambda: save(here), CHECKPOINTS),
            "one checkpoint in a mounted store": lambda: timed(lambda: save(mounted), CHECKPOINTS),
            "finding the newest": lambda: timed(here.newest, CHECKPOINTS),
        }
        values = take_turns(contestants, arguments.rounds)
        size = next(iter((Path(name) / "here").glob("*.npz"))).stat().st_size
    title = f"checkpoints of {size:,} bytes, {arguments.images} images"
    return [Report(title, SECONDS, values, ("one epoch",))]
