"""Seconds per epoch of the tutorial's training, with evaluation: Keras, PyTorch and this package.

All use the same network, Adadelta with a learning rate of 1.0 and batches of 128. Each contestant is a
process that trains and evaluates on the test set after every epoch. Its first epoch is not counted, because
it includes tracing, compiling and allocating.

This package always uses oneDNN. If TensorFlow does so only when it is told to on this CPU, Keras trains in
both ways.
"""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial

from mnist_cnn import cpu

from .machine import NO_BFLOAT16, environment, printed, script
from .report import IMAGES, Metric, Report, number, take_turns

OPTIONS = {
    "--rounds": number(3, "how often each contestant trains"),
    "--epochs": number(4, "epochs of a training, at least 2"),
    "--images": IMAGES,
}
KERAS, KERAS_ONEDNN, TORCH = "plain Keras", "plain Keras, oneDNN on", "PyTorch"
FLOAT32, BFLOAT16, EXACT = "mnist_cnn, float32", "mnist_cnn, bfloat16", "mnist_cnn, exact"
ONEDNN_IS_DEFAULT = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
"""CPUs on which TensorFlow uses oneDNN without being told to (its `IsMKLEnabled`)."""
SECONDS = Metric("seconds per epoch", "times as fast as", less_is_better=True, digits=2)


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure. Each training gives one value fewer than it has epochs."""
    if arguments.epochs < 2:
        raise SystemExit("--epochs: at least 2, because the first is not counted")
    accuracies: dict[str, list[float]] = {}

    def train(name: str) -> list[float]:
        answer = printed(words[name], env=environment() | ({cpu.ONEDNN: "1"} if name == KERAS_ONEDNN else {}))
        accuracies.setdefault(name, []).append(answer["test_accuracy"][-1])
        seconds: list[float] = answer["seconds"]
        return seconds[1:]

    size = (str(arguments.epochs), str(arguments.images))
    words = {
        KERAS: script("plain_keras.py", *size),
        KERAS_ONEDNN: script("plain_keras.py", *size),
        TORCH: script("pytorch.py", *size),
        FLOAT32: script("ours.py", *size, "train.precision=float32"),
        BFLOAT16: script("ours.py", *size, "train.precision=bfloat16"),
        EXACT: script("ours.py", *size, "train.numerics=exact", "train.precision=auto"),
    }
    missing = {} if importlib.util.find_spec("torch") else {TORCH: "not installed"}
    missing |= {} if cpu.computes_bfloat16() else {BFLOAT16: NO_BFLOAT16}
    if not ONEDNN_IS_DEFAULT.isdisjoint(cpu.features()):
        missing[KERAS_ONEDNN] = "on by default on this CPU"
    contestants = {name: partial(train, name) for name in words if name not in missing}
    values = take_turns(contestants, arguments.rounds)
    title = f"the tutorial's training, {arguments.images} images, epochs 2 to {arguments.epochs}"
    details = {"test_accuracy_of_last_epoch": accuracies}
    return [Report(title, SECONDS, values, (KERAS, KERAS_ONEDNN, TORCH), missing, details)]
