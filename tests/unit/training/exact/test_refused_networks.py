"""Networks of known layers are made exact; others are refused, with the layer's name and the reason."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mnist_cnn.errors import ConfigurationError

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

CHAIN = "only a chain of layers, each used once, is known to be exact"
KIND = "layers of this kind are not known to be exact"
REFUSED = {
    # the layers between the input and the last Dense, of which x is the unknown one; the reason
    "LayerNormalization": (lambda k: [k.LayerNormalization(name="x"), k.Flatten()], KIND),
    "DepthwiseConv2D": (lambda k: [k.DepthwiseConv2D(3, name="x"), k.Flatten()], KIND),
    "LSTM": (lambda k: [k.Reshape((12, 12)), k.LSTM(4, name="x")], KIND),
    "GlobalAveragePooling2D": (lambda k: [k.GlobalAveragePooling2D(name="x")], KIND),
    "softmax within": (lambda k: [k.Flatten(), k.Activation("softmax", name="x")], "activation is softmax;"),
    "tanh": (lambda k: [k.Conv2D(2, 3, activation="tanh", name="x"), k.Flatten()], "activation is tanh;"),
    "own relu": (lambda k: [k.Flatten(), k.Dense(3, activation=relu, name="x")], "activation is relu;"),
    "pooling": (lambda k: [k.MaxPooling2D(3, 2, name="x"), k.Flatten()], "overlapping windows"),
    "groups": (lambda k: [k.Conv2D(4, 3), k.Conv2D(4, 3, groups=2, name="x"), k.Flatten()], "groups"),
    "dilation": (lambda k: [k.Conv2D(4, 3, dilation_rate=2, name="x"), k.Flatten()], "dilation"),
    "constraint": (lambda k: [k.Flatten(), k.Dense(3, kernel_constraint="non_neg", name="x")], "constraint"),
    "renorm": (lambda k: [k.Flatten(), k.BatchNormalization(renorm=True, name="x")], "renorm"),
    "lora": (lambda k: [k.Flatten(), k.Dense(3, lora_rank=2, name="x")], "LoRA"),
    "dense on images": (lambda k: [k.Dense(3, name="x"), k.Flatten()], "(batch, features)"),
}  # fmt: skip


def relu(x: Any) -> Any:
    """An activation of the user, which has the name of one of Keras."""
    return x * x


def made_exact(model: Any) -> Any:
    import tensorflow as tf

    from mnist_cnn.training.exact.layers import with_exact_layers
    from mnist_cnn.training.exact.products import Arithmetic

    return with_exact_layers(model, Arithmetic(12, tf.float32, tf.float32, 32))


def chain(keras: ModuleType, layers: list[Any], last: Any = None) -> Any:
    """Return a Sequential of layers between an input (12, 12, 1) and a Dense with 3 classes."""
    last = last or keras.layers.Dense(3, activation="softmax", name="last")
    return keras.Sequential([keras.Input((12, 12, 1)), *layers, last])


def check_near(model: Any) -> None:
    """Compare the exact network's probabilities with the network's own."""
    images = np.random.default_rng(0).random((20, 12, 12, 1), np.float32)
    import tensorflow as tf

    exact = tf.nn.softmax(made_exact(model)(images)).numpy()
    np.testing.assert_allclose(exact, model(images), atol=2e-3)
    assert np.ptp(exact, axis=0).max() > 0.01  # they depend on the image


@pytest.mark.parametrize(("layers", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_unknown_layer_is_refused_by_name(
    keras: ModuleType, layers: Callable[[Any], list[Any]], reason: str
) -> None:
    unknown = layers(keras.layers)
    kind = next(type(layer).__name__ for layer in unknown if layer.name == "x")
    with pytest.raises(ConfigurationError) as caught:
        made_exact(chain(keras, unknown))
    assert caught.value.message.startswith(f"train.numerics=exact cannot train x ({kind}): ")
    assert reason in caught.value.message
    assert caught.value.hint == "change the network, or train with train.numerics=native"


@pytest.mark.parametrize("last", ["sigmoid", None, "Softmax"])
def test_a_network_without_softmax_at_the_end_is_refused(keras: ModuleType, last: str | None) -> None:
    layers = keras.layers
    end = layers.Softmax(name="end") if last == "Softmax" else layers.Dense(3, activation=last, name="end")
    with pytest.raises(ConfigurationError) as caught:
        made_exact(chain(keras, [layers.Flatten(), layers.Dense(3)], end))
    reason = KIND if last == "Softmax" else 'the last layer must have activation="softmax"'
    assert caught.value.message == f"train.numerics=exact cannot train end ({type(end).__name__}): {reason}"


def test_a_network_that_is_not_a_chain_is_refused(keras: ModuleType) -> None:
    layers = keras.layers
    image = keras.Input((12, 12, 1))
    flat = layers.Flatten()(image)
    shared = layers.Dense(144, activation="relu", name="shared")
    branches = layers.Add(name="sum")([flat, layers.Dense(144)(flat)])
    networks = {
        "sum (Add)": (branches, CHAIN),
        "shared (Dense)": (shared(shared(flat)), CHAIN),
        "multiply (Multiply)": (flat * 2.0, KIND),
        "tanh (Tanh)": (keras.ops.tanh(layers.Dense(5)(flat)), KIND),
    }
    for name, (features, reason) in networks.items():
        probabilities = layers.Dense(3, activation="softmax")(features)
        with pytest.raises(ConfigurationError) as caught:
            made_exact(keras.Model(image, probabilities))
        assert caught.value.message == f"train.numerics=exact cannot train {name}: {reason}"


def test_a_subclassed_model_is_refused(keras: ModuleType) -> None:
    class Own(keras.Model):  # type: ignore[misc,name-defined]
        """A functional network that computes something else."""

        def call(self, x: Any) -> Any:
            return 1 - super().call(x)

    image = keras.Input((12, 12, 1))
    probabilities = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(image))
    with pytest.raises(ConfigurationError, match=r"own \(Own\): only Keras' own models"):
        made_exact(Own(image, probabilities, name="own"))
    nested = keras.Sequential([image, Own(image, probabilities, name="own"), keras.layers.Dense(3)])
    with pytest.raises(ConfigurationError, match=r"own \(Own\): only Keras' own models"):
        made_exact(nested)


def test_known_layers_are_made_exact_in_any_chain(keras: ModuleType) -> None:
    layers = keras.layers
    part = keras.Sequential([keras.Input((12, 12, 1)), layers.Conv2D(4, 3, 2, "same"), layers.ReLU(6.0)])
    image = keras.Input((12, 12, 1))
    pooled = layers.MaxPooling2D(2, 3, "same")(layers.BatchNormalization(scale=False)(part(image)))
    features = layers.Dense(9, "relu", use_bias=False)(layers.Dropout(0.3)(layers.Flatten()(pooled)))
    probabilities = layers.Dense(3, "softmax")(layers.Activation("relu")(layers.Reshape((9,))(features)))
    functional = keras.Model(image, probabilities)
    for model in (
        functional,
        keras.Sequential([image, functional]),
        chain(keras, [layers.Flatten(), layers.Dense(3)], layers.Activation("softmax")),
    ):
        check_near(model)


def test_the_copy_has_the_layers_weights_and_settings(keras: ModuleType) -> None:
    layers = keras.layers
    model = chain(
        keras,
        [
            layers.Conv2D(4, 3, trainable=False),
            layers.BatchNormalization(momentum=0.7),
            layers.Flatten(),
            layers.Dropout(0.25),
        ],
    )
    exact = made_exact(model)
    kinds = ["ExactConv2D", "ExactBatchNormalization", "Flatten", "ByteDropout", "ExactDense"]
    assert [type(layer).__name__ for layer in exact.layers] == kinds
    assert (exact.layers[0].trainable, exact.layers[1].momentum) == (False, 0.7)
    assert [w.shape for w in exact.trainable_weights] == [w.shape for w in model.trainable_weights]
    assert all(map(np.array_equal, exact.get_weights(), model.get_weights()))
