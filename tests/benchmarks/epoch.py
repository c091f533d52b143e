"""Seconds of a whole epoch of the tutorial's training, evaluation included: Keras, PyTorch and ours.

The network, Adadelta with a learning rate of 1.0 and batches of 128 are the same for all. Each contestant is
a process of its own, which trains and after every epoch evaluates on the test set; its first epoch, with
whatever is traced, compiled or allocated in it, is not counted.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from mnist_cnn import cpu

from .machine import printed, script
from .report import Kind, Report, take_turns

ROUNDS = 3
ROUND = "how often each contestant trains (default: %(default)s)"
KERAS, TORCH = "plain Keras", "PyTorch"
FLOAT32, BFLOAT16 = "mnist_cnn, float32", "mnist_cnn, bfloat16"
SECONDS = Kind("seconds per epoch", "times as fast as", less_is_better=True, digits=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark asks besides."""
    parser.add_argument(
        "--epochs", type=int, default=4, metavar="N", help="epochs of a training, two or more (default: 4)"
    )
    parser.add_argument(
        "--images", type=int, default=60_000, metavar="N", help="training images (default: all, 60,000)"
    )


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure; each training gives one value less than it has epochs."""
    if arguments.epochs < 2:
        raise SystemExit("--epochs: two or more, as the first is not counted")
    accuracies: dict[str, list[float]] = {}

    def trained(name: str, words: Sequence[str]) -> Callable[[], list[float]]:
        def measure() -> list[float]:
            answer: dict[str, Any] = printed(words)
            accuracies.setdefault(name, []).append(answer["test_accuracy"][-1])
            seconds: list[float] = answer["seconds"]
            return seconds[1:]

        return measure

    size = (str(arguments.epochs), str(arguments.images))
    words = {KERAS: script("plain_keras.py", *size)}
    missing = {}
    if importlib.util.find_spec("torch") is not None:
        words[TORCH] = script("pytorch.py", *size)
    else:
        missing[TORCH] = "not installed"
    words[FLOAT32] = script("ours.py", *size, "train.precision=float32")
    if cpu.computes_bfloat16():
        words[BFLOAT16] = script("ours.py", *size, "train.precision=bfloat16")
    else:
        missing[BFLOAT16] = "not applicable: this processor does not compute it"
    contestants = {name: trained(name, command) for name, command in words.items()}
    values = take_turns(contestants, arguments.rounds)
    title = f"the tutorial's training, {arguments.images} images, epochs 2 to {arguments.epochs}"
    details = {"test_accuracy_of_last_epoch": accuracies}
    return [Report(title, SECONDS, values, (KERAS, TORCH), missing, details)]
