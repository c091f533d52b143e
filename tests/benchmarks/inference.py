"""Images per second, and milliseconds per image: Keras' ways to predict, and `load_predictor`.

All use the tutorial's network from one small run, in one process, in turns. Keras gets float32 images that
are already scaled. `load_predictor` gets bytes and scales them itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
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
    """Train a small run, then measure. Images are random: the speed does not depend on them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf

    import mnist_cnn

    with tempfile.TemporaryDirectory() as name:
        folder = small_run(Path(name) / "run")
        model: Any = keras.models.load_model(folder / "model.keras")
        predictor = mnist_cnn.load_predictor(folder)
    count, calls, few = arguments.images, arguments.calls, max(1, arguments.calls // 10)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    scaled = np.expand_dims(pixels.astype(np.float32) / np.float32(255), 3)  # (N, 28, 28, 1)
    compiled: Any = tf.function(lambda images: model(images, training=False))
    concrete: Any = compiled.get_concrete_function(tf.TensorSpec((1, 28, 28, 1), tf.float32))

    def predict_in_batches() -> None:
        for start in range(0, count, BATCH):
            compiled(tf.constant(scaled[start : start + BATCH])).numpy()

    several: dict[str, Measure] = {
        KERAS: lambda: timed(lambda: model.predict(scaled, verbose=0)),
        "model.predict, batch 1000": lambda: timed(lambda: model.predict(scaled, batch_size=1000, verbose=0)),
        COMPILED: lambda: timed(predict_in_batches),
        OURS: lambda: timed(lambda: predictor(pixels)),
    }
    one: dict[str, Measure] = {
        KERAS: lambda: timed(lambda: model.predict(scaled[:1], verbose=0), few),
        "model(x)": lambda: timed(lambda: model(scaled[:1], training=False).numpy(), few),
        "concrete function": lambda: timed(lambda: concrete(tf.constant(scaled[:1])).numpy(), calls),
        OURS: lambda: timed(lambda: predictor(pixels[:1]), calls),
    }
    for measure in (*several.values(), *one.values()):
        measure()  # not counted, because it traces and allocates
    seconds, latencies = take_turns(several, arguments.rounds), take_turns(one, arguments.rounds)
    rates = {name: [count / value for value in values] for name, values in seconds.items()}
    milliseconds = {name: [1000 * value for value in values] for name, values in latencies.items()}
    return [
        Report(f"{count} images", RATE, rates, (KERAS, COMPILED)),
        Report("one image at a time", LATENCY, milliseconds, (KERAS,)),
    ]
