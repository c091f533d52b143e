"""Whole epochs in this process: compared with Keras' own `fit`, and with each other."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

import numpy as np
import pytest

from mnist_cnn import launch
from mnist_cnn.config import Format
from mnist_cnn.data import datasets
from mnist_cnn.training import epoch
from mnist_cnn.training.model import build_model, weights_sha256

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


TINY = (
    "data.train_limit=200", "data.test_limit=50", "train.batch_size=32", "train.epochs=2",
    "model.filters=[4]", "model.dense_units=8",
)  # fmt: skip


@functools.cache
def weights_after(*settings: str) -> str:
    job = launch.make_job(*TINY, *settings)
    trainer = epoch.Trainer(job, datasets.load(job.data))
    for number in range(1, job.train.epochs + 1):
        trainer.run_epoch(number, lambda progress: None)
    return weights_sha256(trainer.model)


def test_an_epoch_computes_the_same_as_keras_fit(keras: ModuleType) -> None:
    """Compare one epoch without dropout to `fit` on the same order with `shuffle=False`."""
    job = launch.make_job(
        "data.train_limit=330", "data.test_limit=100", "train.batch_size=32", "model.conv_dropout=0",
        "model.dense_dropout=0",
    )  # fmt: skip
    arrays = datasets.load(job.data)
    trainer = epoch.Trainer(job, arrays)
    plain = build_model(job.model, (28, 28, 1), 10, Format.channels_last, "float32")
    plain.set_weights(trainer.model.get_weights())
    row = trainer.run_epoch(1, lambda progress: None)

    order = epoch.permutation(job.seed, 1, 330)
    plain.compile(keras.optimizers.Adadelta(1.0), "categorical_crossentropy", metrics=["accuracy"])
    images = arrays.x_train[order].astype("float32") / 255
    labels = keras.utils.to_categorical(arrays.y_train[order], 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = plain.fit(images, labels, batch_size=32, epochs=1, shuffle=False, verbose=0).history
        test_images = arrays.x_test.astype("float32") / 255
        loss, accuracy = plain.evaluate(test_images, keras.utils.to_categorical(arrays.y_test, 10), verbose=0)
    for ours, theirs in zip(trainer.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert row.loss == pytest.approx(fitted["loss"][0], rel=1e-3)
    assert row.accuracy == pytest.approx(fitted["accuracy"][0], abs=0.01)
    assert row.val_loss == pytest.approx(loss, rel=1e-2)
    assert row.val_accuracy == pytest.approx(accuracy, abs=0.02)


@pytest.mark.usefixtures("keras")
def test_images_are_augmented_except_in_the_unaugmented_epochs() -> None:
    plain = weights_after()
    augmented = [weights_after("train.shift=2", f"train.unaugmented_epochs={n}") for n in (0, 1, 2)]
    assert augmented[2] == plain
    assert len({*augmented}) == 3


@pytest.mark.usefixtures("keras")
def test_another_seed_or_label_smoothing_ends_in_other_weights() -> None:
    """Label smoothing is the same for either loss, although only one takes one-hot labels."""
    smoothed = [
        weights_after("train.label_smoothing=0.1", f"train.loss={loss}_crossentropy")
        for loss in ("categorical", "sparse_categorical")
    ]
    assert smoothed[0] == smoothed[1]
    assert len({weights_after(), weights_after("seed=1"), smoothed[0]}) == 3
