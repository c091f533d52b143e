"""The plain Keras example: `fit` on float32 numpy arrays, with its defaults.

    python tests/benchmarks/plain_keras.py EPOCHS IMAGES

Prints JSON: the seconds of each epoch and the test accuracy after it.

The reference: the tutorial's network and settings, written in the style of Keras' own examples.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import keras
from keras import layers

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets


class Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Records the time at the end of each epoch, after its evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.perf_counter()]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.times.append(time.perf_counter())


epochs, images = map(int, sys.argv[1:])
arrays = datasets.load(DataConfig(train_limit=images))
x_train, x_test = (pixels.astype("float32") / 255 for pixels in (arrays.x_train, arrays.x_test))
y_train, y_test = (keras.utils.to_categorical(labels, 10) for labels in (arrays.y_train, arrays.y_test))
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adadelta(1.0), "categorical_crossentropy", metrics=["accuracy"])
clock = Clock()
history = model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=epochs,
    verbose=0,
    validation_data=(x_test, y_test),
    callbacks=[clock],
).history
seconds = [after - before for before, after in pairwise(clock.times)]
print(json.dumps({"seconds": seconds, "test_accuracy": history["val_accuracy"]}))
