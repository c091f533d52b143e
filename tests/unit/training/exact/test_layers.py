"""Exact layers and the exact loss compute what Keras' own do, within the rounding of their operands."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.integer_products import Integers

from mnist_cnn import compose, launch
from mnist_cnn.config import Format, ModelConfig
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError, TrainingError
from mnist_cnn.training.epoch import Trainer
from mnist_cnn.training.model import build_model

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

EXACT_JOB = (
    "data.train_limit=100", "data.test_limit=50", "train.batch_size=25", "train.numerics=exact",
    "model.filters=[4]", "model.kernel_size=7", "model.stem_stride=4", "model.dense_units=0",
    "train.epochs=1",
)  # fmt: skip


def arithmetic(bits: int) -> Any:
    import tensorflow as tf

    from mnist_cnn.training.exact.products import Arithmetic

    return Arithmetic(bits, tf.float32, tf.float32, 64)


def batch_normalisation(keras: ModuleType, bits: int, **settings: Any) -> list[Any]:
    """Return Keras' layer and the exact one, built."""
    from mnist_cnn.training.exact.layers import ExactBatchNormalization

    kinds = (keras.layers.BatchNormalization, ExactBatchNormalization)
    layers = [kind(**settings) for kind in kinds]
    layers[1].arithmetic = arithmetic(bits)
    return layers


def outcome(layer: Any, inputs: Any, weights: Any) -> list[Any]:
    """Return outputs in training, gradients of inputs and weights, weights, and outputs in evaluation."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(outputs * weights)
    gradients = tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_weights)])
    return [np.asarray(a) for a in (outputs, *gradients, *layer.weights, layer(inputs, training=False))]


@pytest.mark.parametrize("bits", [2, 7, 8, 12])
@pytest.mark.parametrize("kind", ["normal", "largest"])
def test_statistics_and_gradients_of_batch_norm_equal_integers(
    keras: ModuleType, bits: int, kind: str
) -> None:
    import tensorflow as tf

    shape, count = (64, 9, 8, 3), 64 * 9 * 8
    rng = np.random.default_rng(bits)
    arrays = [rng.normal(1, 2, shape).astype(np.float32) for _ in range(2)]
    if kind == "largest":
        arrays = [np.where(rng.random(shape) < 0.5, 1, 1 - 2.0**-bits).astype(np.float32) for _ in range(2)]
    inputs, dy = arrays
    _, layer = batch_normalisation(keras, bits, momentum=0.0)
    _, _, of_gamma, of_beta, _, _, mean, variance, _ = outcome(layer, tf.constant(inputs), tf.constant(dy))
    x, upstream = Integers.of(inputs, bits), Integers.of(dy, bits)

    def mean_of(*factors: Integers) -> Any:
        """Return the mean of a product over all but the last axis, float64, which rounds once."""
        counts = np.prod([factor.counts for factor in factors], axis=0).sum(axis=(0, 1, 2))
        unit = float(np.prod([float(factor.unit) for factor in factors]))
        return counts.astype(np.float64) * unit / count

    expected_mean = mean_of(x)
    expected_variance = mean_of(x, x) - expected_mean**2
    np.testing.assert_array_equal(mean, expected_mean.astype(np.float32))
    np.testing.assert_array_equal(variance, expected_variance.astype(np.float32))
    np.testing.assert_array_equal(of_beta, (mean_of(upstream) * count).astype(np.float32))
    inverse = np.sqrt(1 / (expected_variance + layer.epsilon))
    slope = (mean_of(upstream, x) - expected_mean * mean_of(upstream)) * inverse
    np.testing.assert_array_equal(of_gamma, (slope * count).astype(np.float32))


@pytest.mark.parametrize(
    "settings", [{}, {"axis": 1}, {"scale": False}, {"center": False, "epsilon": 0.1}, {"trainable": False}]
)
def test_batch_norm_is_as_near_to_keras_own_as_12_bits_allow(
    keras: ModuleType, settings: dict[str, Any]
) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    layers = batch_normalisation(keras, 12, momentum=0.9, **settings)
    for _ in range(3):
        inputs, weights = (tf.constant(rng.normal(1, 2, (8, 5, 4, 6)), tf.float32) for _ in range(2))
        theirs, ours = (outcome(layer, inputs, weights) for layer in layers)
        for expected, found in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_and_its_gradient_are_those_of_keras(keras: ModuleType, smoothing: float) -> None:
    import tensorflow as tf

    from mnist_cnn.training.exact.loss import cross_entropy

    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(scale=1.5, size=(33, 10)), tf.float32)
    labels = tf.one_hot(rng.integers(0, 10, 33), 10)
    smoothed = labels * (1 - smoothing) + smoothing / 10
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        ours, probabilities = cross_entropy(smoothed, logits)
        theirs = tf.reduce_mean(
            keras.losses.categorical_crossentropy(labels, tf.nn.softmax(logits), label_smoothing=smoothing)
        )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        tape.gradient(ours, logits), tape.gradient(theirs, logits), rtol=1e-3, atol=2e-7
    )
    wide, _ = cross_entropy(tf.one_hot([1], 2), tf.constant([[1000.0, -1000.0]]))
    assert float(wide) == 1000


@pytest.mark.parametrize("image_format", Format)
@pytest.mark.parametrize(
    "settings", [{}, {"filters": (6, 8, 10), "batch_norm": True, "stem_stride": 2, "dense_units": 0}]
)
def test_an_exact_network_computes_nearly_what_the_native_one_does(
    keras: ModuleType, settings: dict[str, Any], image_format: Format
) -> None:
    import tensorflow as tf

    from mnist_cnn.training.exact.layers import with_exact_layers

    config = ModelConfig(**{"filters": (4, 6), "dense_units": 16, **settings})
    shape = (14, 14, 1) if image_format is Format.channels_last else (1, 14, 14)
    plain = build_model(config, shape, 10, image_format, "float32")
    images = tf.constant(np.random.default_rng(0).random((30, *shape), np.float32))
    for bits, tolerance in ((12, 1e-3), (7, 0.02)):
        exact = with_exact_layers(plain, arithmetic(bits))
        np.testing.assert_allclose(tf.nn.softmax(exact(images)), plain(images), atol=tolerance)
    keras.config.set_image_data_format("channels_last")


def test_a_training_that_diverges_ends_in_a_training_error() -> None:
    steep = ("train.learning_rate=1000", "train.optimizer=sgd", "model.filters=[8,8,8]")
    small = ("model.kernel_size=3", "model.stem_stride=1", "model.dense_units=8", "data.train_limit=100")
    job = launch.make_job(*EXACT_JOB, *steep, *small)
    trainer = Trainer(job, datasets.load(job.data))
    with pytest.raises(TrainingError, match=r"NaN|the loss became nan") as caught:
        trainer.run_epoch(1, lambda progress: None)
    assert caught.value.hint == "lower train.learning_rate, which is 1000"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**60])
def test_a_bad_weight_ends_in_a_training_error(trainer: Trainer, bad: float) -> None:
    state = trainer.state()
    for layer in (trainer.model.layers[0], trainer.model.layers[-1]):
        trainer.restore(state)
        kernel = np.asarray(layer.kernel).copy()
        kernel.flat[5] = bad
        layer.kernel.assign(kernel)
        with pytest.raises(TrainingError, match=r"NaN|the loss became nan"):
            trainer.run_epoch(1, lambda progress: None)
    trainer.restore(state)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    """A small exact training, whose state a test restores."""
    job = launch.make_job(*EXACT_JOB)
    return Trainer(job, datasets.load(job.data))


@pytest.mark.parametrize("bits", ["1", "13", "7.5", "null"])
def test_only_2_to_12_bits_are_allowed(bits: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a whole number from 2 to 12") as caught:
        compose.load([f"train.exact_bits={bits}"])
    assert caught.value.message.startswith(f"train.exact_bits={bits}")
