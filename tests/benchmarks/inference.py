"""Images per second, and milliseconds per image: Keras' ways to predict, and `load_predictor`.

All use the tutorial's network from one small run, in one process, in turns. Keras gets float32 images that
are already scaled. `load_predictor` gets bytes and scales them itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .machine import small_run
from .report import Measure, Metric, Report, number, take_turns, timed

OPTIONS = {
    "--rounds": number(5, "how often each way is measured"),
    "--images": number(10_000, "images in a measurement of throughput"),
    "--calls": number(200, "calls with one image per round"),
}
KERAS, COMPILED, OURS = "model.predict", "compiled function, batch 100", "load_predictor"
RATE = Metric("images per second", "times as fast as", digits=0)
LATENCY = Metric("milliseconds for one image", "times as fast as", less_is_better=True, digits=3)
BATCH = 100


def run(arguments: argparse.Namespace) -> list[Report]:
    """Train a small run, then measure."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as name:
        folder = small_run(Path(name) / "run")
        ways = Ways(folder, arguments.images)
    several, one = ways.several(), ways.one(arguments.calls)
    for measure in (*several.values(), *one.values()):
        measure()  # not counted, because it traces and allocates
    rates = take_turns(several, arguments.rounds)
    latencies = take_turns(one, arguments.rounds)
    return [
        Report(f"{arguments.images} images", RATE, rates, (KERAS, COMPILED)),
        Report("one image at a time", LATENCY, latencies, (KERAS,)),
    ]


class Ways:
    """Ways to predict with a run's network. Images are random: the speed does not depend on them."""

    def __init__(self, folder: Path, count: int) -> None:
        import keras
        import numpy as np
        import tensorflow as tf

        import mnist_cnn

        self.model: Any = keras.models.load_model(folder / "model.keras")
        self.predictor = mnist_cnn.load_predictor(folder)
        self.bytes = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
        self.scaled = np.expand_dims(self.bytes.astype(np.float32) / np.float32(255), 3)  # (N, 28, 28, 1)
        self.compiled: Any = tf.function(lambda images: self.model(images, training=False))
        signature = tf.TensorSpec((1, 28, 28, 1), tf.float32)
        self.concrete: Any = tf.function(self.compiled).get_concrete_function(signature)
        self.constant: Any = tf.constant

    def several(self) -> dict[str, Measure]:
        """Measure predictions of all images, in images per second."""
        ways: dict[str, Callable[[], object]] = {
            KERAS: lambda: self.model.predict(self.scaled, verbose=0),
            "model.predict, batch 1000": lambda: self.model.predict(self.scaled, batch_size=1000, verbose=0),
            COMPILED: self._in_batches,
            OURS: lambda: self.predictor(self.bytes),
        }
        return {name: partial(self._rate, predict) for name, predict in ways.items()}

    def one(self, calls: int) -> dict[str, Measure]:
        """Measure predictions of one image, in milliseconds."""
        image, pixels = self.scaled[:1], self.bytes[:1]
        few = max(1, calls // 10)
        return {
            KERAS: partial(_latency, lambda: self.model.predict(image, verbose=0), few),
            "model(x)": partial(_latency, lambda: self.model(image, training=False).numpy(), few),
            "concrete function": partial(
                _latency, lambda: self.concrete(self.constant(image)).numpy(), calls
            ),
            OURS: partial(_latency, lambda: self.predictor(pixels), calls),
        }

    def _in_batches(self) -> None:
        for start in range(0, len(self.scaled), BATCH):
            self.compiled(self.constant(self.scaled[start : start + BATCH])).numpy()

    def _rate(self, predict: Callable[[], object]) -> list[float]:
        return [len(self.scaled) / seconds for seconds in timed(predict)]


def _latency(predict: Callable[[], object], calls: int) -> list[float]:
    return [1000 * seconds for seconds in timed(predict, calls)]
