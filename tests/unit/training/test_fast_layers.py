"""The fast layers compute the same as Keras' own."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mnist_cnn.config import Format, ModelConfig
from mnist_cnn.training.model import build_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("rate", [0.25, 0.5, 1 / 256, 255 / 256])
def test_dropout_drops_the_rate_and_scales_the_rest(rate: float) -> None:
    from mnist_cnn.training.fast_layers import ByteDropout

    layer = ByteDropout(rate, seed=3)
    units = np.ones((1000, 1003), np.float32)
    dropped = np.asarray(layer(units, training=True))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / (1 - rate))}
    share = (dropped == 0).mean()
    deviation = np.sqrt(rate * (1 - rate) / units.size)
    assert abs(share - rate) < 5 * deviation
    assert abs((dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)).mean() == pytest.approx(rate**2, abs=0.002)
    again = np.asarray(layer(units, training=True))
    assert not np.array_equal(again, dropped)
    assert np.array_equal(np.asarray(ByteDropout(rate, seed=3)(units, training=True)), dropped)
    assert np.array_equal(np.asarray(layer(units, training=False)), units)


@pytest.mark.usefixtures("keras")
def test_gradients_pass_only_through_kept_units() -> None:
    import tensorflow as tf

    from mnist_cnn.training.fast_layers import ByteDropout

    units = tf.random.stateless_normal((40, 50), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(units)
        dropped = ByteDropout(0.25)(units, training=True)
    gradients = tape.gradient(dropped, units).numpy()
    np.testing.assert_allclose(gradients, np.where(dropped.numpy() == 0, 0, 1 / 0.75), rtol=1e-6)


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize(
    ("images", "kernel"),
    [((70, 8, 8, 8), (3, 3)), ((32, 7, 5, 9), (1, 1)), ((1, 5, 5, 8), (5, 5)), ((37, 6, 9, 16), (2, 4))],
)
def test_a_kernels_gradient_equals_tensorflows(images: tuple[int, ...], kernel: tuple[int, int]) -> None:
    import tensorflow as tf

    from mnist_cnn.training.fast_layers import kernel_gradient

    count, height, width, channels = images
    generator = np.random.default_rng(1)
    x = generator.normal(size=images)
    dy = generator.normal(size=(count, height - kernel[0] + 1, width - kernel[1] + 1, 5))
    exact = tf.raw_ops.Conv2DBackpropFilter(
        input=tf.constant(x),  # float64
        filter_sizes=[*kernel, channels, 5],
        out_backprop=tf.constant(dy),
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    found = kernel_gradient(tf.constant(x, tf.float32), tf.constant(dy, tf.float32), kernel)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("is_slow", [True, False])
def test_a_fast_convolution_equals_keras_own(
    keras: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    is_slow: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    import tensorflow as tf

    from mnist_cnn import cpu
    from mnist_cnn.training.fast_layers import FastConv2D, with_fast_layers

    monkeypatch.setattr(cpu, "has_slow_kernel_gradients", lambda: is_slow)
    layers = keras.layers
    plain = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3),  # its input has too few channels
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(8, 3, padding="same"),
            layers.Conv2D(8, 3, strides=2),
        ]
    )
    fast = with_fast_layers(plain)
    assert [type(layer) is FastConv2D for layer in fast.layers] == [False, is_slow, False, False]
    images = np.random.default_rng(2).normal(size=(40, 12, 12, 1)).astype(np.float32)
    both = []
    for model in (plain, fast):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            total = tf.reduce_sum(outputs**2)
        both.append((outputs, *tape.gradient(total, model.trainable_variables)))
    for expected, found in zip(*both, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (1, 1, 1, 6)])
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)])
@pytest.mark.parametrize("trainable", [True, False])
def test_fused_batch_normalisation_equals_keras_own(
    keras: ModuleType,
    shape: tuple[int, ...],
    policy: str,
    tolerance: float,
    trainable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Compare outputs, gradients and moving statistics over three steps, in training and evaluation."""
    import tensorflow as tf

    from mnist_cnn.training.fast_layers import FusedBatchNormalization

    kinds = (keras.layers.BatchNormalization, FusedBatchNormalization)
    layers = [kind(momentum=0.9, dtype=policy, trainable=trainable) for kind in kinds]
    rng = np.random.default_rng(0)
    for _ in range(3):
        images = tf.constant(rng.normal(3, 2, shape).astype(np.float32))
        weights = tf.constant(rng.normal(size=shape).astype(np.float32))
        outcomes = []
        for layer in layers:
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = layer(images, training=True)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
            gradients = tape.gradient(loss, [images])
            outcomes.append([outputs, *gradients, *layer.weights, layer(images, training=False)])
        for theirs, ours in zip(*outcomes, strict=True):
            expected = tf.cast(tf.convert_to_tensor(theirs), tf.float32)
            np.testing.assert_allclose(
                tf.cast(tf.convert_to_tensor(ours), tf.float32), expected, rtol=10 * tolerance, atol=tolerance
            )
    assert (np.asarray(layers[1].moving_mean) == 0).all() == (not trainable)


def with_fast_layers(model: Any) -> Any:
    from mnist_cnn.training import fast_layers  # which imports Keras

    return fast_layers.with_fast_layers(model)


def kinds(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_a_network_with_fast_layers_is_the_same_network(keras: ModuleType) -> None:
    config = ModelConfig(filters=(4, 6), batch_norm=True, dense_units=5, dense_dropout=0.3)
    plain = build_model(config, (12, 12, 1), 3, Format.channels_last, "float32")
    trained = with_fast_layers(plain)
    assert kinds(trained) == [
        "Conv2D", "Conv2D", "MaxPooling2D", "FusedBatchNormalization", "ReLU", "ByteDropout", "Flatten",
        "Dense", "Dropout", "Dense",
    ]  # fmt: skip
    images = np.random.default_rng(0).random((7, 12, 12, 1), np.float32)
    assert np.array_equal(plain(images), trained(images))
    assert [weight.shape for weight in plain.weights] == [weight.shape for weight in trained.weights]
    first = build_model(config, (1, 12, 12), 3, Format.channels_first, "float32")
    assert "FusedBatchNormalization" not in kinds(with_fast_layers(first))
    keras.config.set_image_data_format("channels_last")


def test_a_custom_mixed_precision_network_ends_in_float32(keras: ModuleType) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        image = keras.Input((8, 8, 1))
        inner = keras.Sequential([keras.layers.Flatten(), keras.layers.Dropout(0.5)])
        outputs = keras.layers.Dense(3, activation="softmax")(inner(image))
        model = keras.Model(image, outputs)
    finally:
        keras.config.set_dtype_policy("float32")
    trained = with_fast_layers(model)
    assert trained(np.ones((2, 8, 8, 1), np.float32)).dtype == "float32"
    assert kinds(trained.layers[1]) == ["Flatten", "ByteDropout"]


def test_a_network_may_end_in_an_operation_without_a_layer(keras: ModuleType) -> None:
    image = keras.Input((8, 8, 1))
    dropped = keras.layers.Dropout(0.5)(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.ops.softmax(keras.layers.Dense(3)(dropped)))
    trained = with_fast_layers(model)
    assert "ByteDropout" in kinds(trained)
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    assert np.array_equal(trained(images), model(images))


def test_a_custom_class_is_left_as_it_is(keras: ModuleType) -> None:
    class Bare(keras.Model):  # type: ignore[misc, name-defined]
        def call(self, images: Any) -> Any:
            return images

    class Doubled(keras.Sequential):  # type: ignore[misc, name-defined]
        def call(self, images: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001
            return 2 * super().call(images, training=training, mask=mask)

    bare = Bare()
    assert with_fast_layers(bare) is bare
    doubled = Doubled([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    assert with_fast_layers(doubled) is doubled
    outer = keras.Sequential([keras.Input((3,)), doubled, keras.layers.Dropout(0.25)])
    trained = with_fast_layers(outer)
    assert trained.layers[0] is doubled
    assert kinds(trained) == ["Doubled", "ByteDropout"]


def test_a_rate_that_is_not_a_multiple_of_1_256_is_left_to_keras(keras: ModuleType) -> None:
    rates = (0.3, 1.0, 0.5)
    plain = keras.Sequential([keras.Input((3,)), *(keras.layers.Dropout(rate) for rate in rates)])
    assert kinds(with_fast_layers(plain)) == ["Dropout", "Dropout", "ByteDropout"]
