"""Exact layers for Keras, used only during training.

Imports Keras and TensorFlow. `with_exact_layers` puts them into a network. Saved models never contain them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training.exact import products, rounding
from mnist_cnn.training.fast_layers import ByteDropout, is_byte_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.training.exact.products import Arithmetic

ELEMENTWISE = (
    keras.layers.Activation, keras.layers.Dropout, keras.layers.Flatten,
    keras.layers.ReLU, keras.layers.Reshape,
)  # fmt: skip
"""Layers without sums: Keras' own are exact.

`_check_layer` checks the activation.
"""


class ExactConv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """A convolution over float32 images.

    They are (B, H, W, C) or (B, C, H, W).
    """

    arithmetic: Arithmetic

    def call(self, inputs: Any) -> Any:
        """Convolve `inputs`."""
        is_last = self.data_format == "channels_last"
        result = products.convolve(
            inputs if is_last else tf.transpose(inputs, [0, 2, 3, 1]),
            tf.convert_to_tensor(self.kernel),
            tf.convert_to_tensor(self.bias) if self.use_bias else None,
            self.arithmetic,
            strides=[1, *self.strides, 1],
            dilations=[1, *self.dilation_rate, 1],
            padding=self.padding.upper(),
        )
        return self.activation(result if is_last else tf.transpose(result, [0, 3, 1, 2]))


class ExactDense(keras.layers.Dense):  # type: ignore[misc]
    """A dense layer over features (B, D), float32."""

    arithmetic: Arithmetic

    def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: ARG002, FBT001 - as Keras calls it
        """Multiply `inputs`."""
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else None
        return self.activation(
            products.multiply(inputs, tf.convert_to_tensor(self.kernel), bias, self.arithmetic)
        )


class ExactBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation over one axis, with exact statistics.

    Inputs are float32.
    """

    arithmetic: Arithmetic

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG002, FBT001
        """Normalise `inputs`. Training also updates the moving statistics."""
        axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
        ones = tf.ones(inputs.shape[self.axis])
        gamma = tf.convert_to_tensor(self.gamma) if self.scale else ones
        beta = tf.convert_to_tensor(self.beta) if self.center else 0 * ones
        if not (training and self.trainable):
            mean, variance = (tf.cast(v, tf.float64) for v in (self.moving_mean, self.moving_variance))
            factor = tf.cast(gamma, tf.float64) * rounding.inverse_root(variance + self.epsilon)
            return _scaled(inputs, factor, tf.cast(beta, tf.float64) - mean * factor, axes)
        outputs, mean, variance = self._normalise(inputs, gamma, beta, axes)
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs

    def _normalise(self, inputs: Any, gamma: Any, beta: Any, axes: list[int]) -> Any:
        """Return normalised inputs, their mean and variance.

        Ioffe and Szegedy 2015, arXiv 1502.03167. Mean and variance are those of the rounded inputs, from
        exact sums of them and of their squares.
        """
        arithmetic = self.arithmetic
        bits, batch = arithmetic.bits, arithmetic.batch

        def mean_of(values: Any, bits: int) -> Any:
            total = rounding.exact_sum(values, axes, bits, batch)  # (C,) float64
            return total / tf.cast(tf.size(values) // tf.size(total), tf.float64)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def normalisation(inputs: Any, gamma: Any, beta: Any) -> Any:
            x = arithmetic.operand(inputs)
            mean = mean_of(x.values, bits)
            variance = mean_of(tf.square(x.values), 2 * bits) - tf.square(mean)
            inverse = rounding.inverse_root(variance + self.epsilon)
            factor = tf.cast(gamma, tf.float64) * inverse
            outputs = _scaled(inputs, factor, tf.cast(beta, tf.float64) - mean * factor, axes)

            def gradient(upstream: Any, *_: Any) -> tuple[Any, ...]:
                dy = arithmetic.operand(upstream)
                mean_dy = mean_of(dy.values, bits)  # each (C,) float64
                mean_dy_x = (mean_of(dy.values * x.values, 2 * bits) - mean * mean_dy) * inverse
                of_inputs = _scaled(upstream, factor, -mean_dy * factor, axes)
                slope = factor * inverse * mean_dy_x
                of_inputs -= _scaled(inputs, slope, -mean * slope, axes)
                count = tf.cast(tf.size(inputs) // tf.size(mean), tf.float64)
                return of_inputs, tf.cast(mean_dy_x * count, tf.float32), tf.cast(mean_dy * count, tf.float32)

            return (outputs, tf.cast(mean, tf.float32), tf.cast(variance, tf.float32)), gradient

        return normalisation(inputs, gamma, beta)


class ExactMaxPooling2D(keras.layers.MaxPooling2D):  # type: ignore[misc]
    """Max pooling of images of either format.

    On a CPU, only oneDNN has kernels for (B, C, H, W).
    """

    def call(self, inputs: Any) -> Any:
        """Pool `inputs`."""
        if self.data_format == "channels_last":
            return super().call(inputs)
        window = (self.pool_size, self.strides, self.padding.upper())
        return tf.transpose(tf.nn.max_pool2d(tf.transpose(inputs, [0, 2, 3, 1]), *window), [0, 3, 1, 2])


EXACT = {
    keras.layers.BatchNormalization: ExactBatchNormalization,
    keras.layers.Conv2D: ExactConv2D,
    keras.layers.Dense: ExactDense,
    keras.layers.MaxPooling2D: ExactMaxPooling2D,
}


def _scaled(values: Any, factor: Any, offset: Any, axes: list[int]) -> Any:
    """Return values * factor + offset, float32.

    Factor and offset, (C,), belong to the axis not in `axes`.
    """
    shape = [1 if axis in axes else -1 for axis in range(len(axes) + 1)]
    factor, offset = (tf.reshape(tf.cast(numbers, tf.float32), shape) for numbers in (factor, offset))
    return values * factor + offset


def with_exact_layers(model: keras.Model, arithmetic: Arithmetic) -> keras.Model:
    """Return a copy of the network with exact layers.

    It has the same weights, and computes its logits exactly. Raises ConfigurationError if a layer is not
    known to be exact, or the last one is not a softmax.
    """
    copies: list[keras.Layer] = []
    layers = list(_chain(model))
    for layer in layers:
        is_last = layer is layers[-1]
        _check_layer(layer, is_last=is_last)
        name = f"{len(copies)}_{layer.name}"  # parts of a network may have layers of the same name
        config = {**layer.get_config(), "dtype": "float32", "name": name}
        if is_last:
            config["activation"] = "linear"
        kind = _exact_class(layer)
        copy = kind.from_config(config)
        if kind in EXACT.values():
            copy.arithmetic = arithmetic
        copies.append(copy)
    network = keras.Sequential([keras.Input(model.input_shape[1:]), *copies])
    network.set_weights(model.get_weights())
    return network


def _exact_class(layer: Any) -> Any:
    """Return the class whose objects compute a layer exactly."""
    kind = type(layer)
    is_byte_dropout = kind is keras.layers.Dropout and is_byte_rate(layer)
    return ByteDropout if is_byte_dropout else EXACT.get(kind, kind)


def _check_layer(layer: Any, *, is_last: bool) -> None:
    """Check that a layer is exact.

    Raises ConfigurationError if it is not known to be.
    """
    layers = keras.layers
    kind = type(layer)
    _check(layer, kind in (*EXACT, *ELEMENTWISE), "layers of this kind are not known to be exact")
    names = (name for name in vars(layer) if name.endswith("_constraint"))
    _check(layer, not any(getattr(layer, name) for name in names), "its constraint is not known to be exact")
    is_plain = not getattr(layer, "lora_enabled", False) and not getattr(layer, "quantization_mode", None)
    _check(layer, is_plain, "LoRA and quantization are not known to be exact")
    if kind is layers.BatchNormalization:
        is_plain = not layer.renorm and not layer.synchronized
        _check(layer, is_plain, "renorm and synchronized are not known to be exact")
    if kind is layers.Conv2D:
        _check(layer, layer.groups == 1, "groups are not known to be exact")
        # TensorFlow's float64 kernels have no gradient of it on a CPU.
        _check(layer, tuple(layer.dilation_rate) == (1, 1), "dilation is not known to be exact")
    if kind is layers.Dense:
        _check(layer, len(layer.input.shape) == 2, "only an input (batch, features) is known to be exact")  # noqa: PLR2004
    if kind is layers.MaxPooling2D:
        is_apart = all(stride >= size for stride, size in zip(layer.strides, layer.pool_size, strict=True))
        _check(layer, is_apart, "overlapping windows are not known to be exact")
    activation = getattr(layer, "activation", keras.activations.linear)
    if is_last:
        is_softmax = activation is keras.activations.softmax
        _check(layer, is_softmax, 'the last layer must have activation="softmax"')
    else:
        is_known = activation in (keras.activations.linear, keras.activations.relu)
        name = getattr(activation, "__name__", activation)
        _check(layer, is_known, f"its activation is {name}; only relu and linear are known to be exact")


def _chain(model: Any) -> Iterator[Any]:
    """Yield a network's layers in order.

    Raises ConfigurationError if they are not a chain.
    """
    is_plain = type(model).__module__.partition(".")[0] == "keras"
    _check(model, is_plain, "only Keras' own models are known to be exact")
    previous: Any = None
    for operation in getattr(model, "_functional", model).operations:
        nodes = operation._inbound_nodes  # noqa: SLF001 - Keras has no public way to ask
        parents = [parent.operation for node in nodes for parent in node.parent_nodes]
        is_next = len(nodes) == 1 and parents == ([] if previous is None else [previous])
        _check(
            operation,
            is_next,
            "only a chain of layers, each used once, is known to be exact",
        )
        previous = operation
        if isinstance(operation, keras.Model):
            yield from _chain(operation)
        elif not isinstance(operation, keras.layers.InputLayer):
            yield operation


def _check(layer: Any, is_exact: bool, reason: str) -> None:  # noqa: FBT001 - it is what is checked
    if not is_exact:
        message = f"train.numerics=exact cannot train {layer.name} ({type(layer).__name__}): {reason}"
        raise ConfigurationError(message, "change the network, or train with train.numerics=native")
