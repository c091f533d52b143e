"""Faster layers that compute the same as Keras' own.

Used only during training. `with_fast_layers` puts them into a network. Saved models never contain them.
Imports Keras and TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mnist_cnn import cpu

BYTE_VALUES = 256
IMAGES_IN_CACHE = 32
MIN_CHANNELS = 8  # with fewer the matrices are too narrow to be fast


class ByteDropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout that draws a byte for each unit.

    Keras draws a float. The rate must be a multiple of 1/256. A unit is dropped if its byte, uniform on 0 to
    255, is below 256 times the rate. The probability is exactly the rate.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - as Keras calls it
        """Drop units and scale the others.

        The factor is 1 / (1 - rate). `inputs` may have any shape.
        """
        if not training or self.rate == 0:
            return inputs
        size = tf.size(inputs)
        words = tf.random.stateless_uniform(
            [(size + 7) // 8], tf.cast(self.seed_generator.next(), tf.int32), None, None, tf.uint64
        )
        draws = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(inputs))
        kept = tf.cast(draws >= round(self.rate * BYTE_VALUES), inputs.dtype)
        return inputs * (kept * tf.cast(1 / (1 - self.rate), inputs.dtype))


class FastConv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """A convolution with a faster gradient of its kernel.

    See `kernel_gradient`.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve `inputs`, (B, H, W, C)."""
        settings = {"strides": [1, 1, 1, 1], "padding": "VALID"}

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def convolve(inputs: Any, kernel: Any) -> Any:
            def gradient(dy: Any) -> tuple[Any, Any]:
                of_inputs = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(inputs), filter=kernel, out_backprop=dy, **settings
                )
                return of_inputs, kernel_gradient(inputs, dy, self.kernel_size)

            return tf.raw_ops.Conv2D(input=inputs, filter=kernel, **settings), gradient

        return convolve(inputs, tf.convert_to_tensor(kernel))


def kernel_gradient(images: Any, dy: Any, kernel_size: tuple[int, int]) -> Any:
    """Return the gradient of a convolution's kernel.

    It is (h, w, C, F). The convolution has stride 1 and no padding. `images` are (B, H, W, C), `dy` (B, H - h
    + 1, W - w + 1, F). The images shifted by each column of the kernel lie side by side, (rows, w * C), and
    the rows that follow each other in `dy` have zeros where an image has no more outputs. So a shift by a row
    of the kernel is a slice of consecutive rows, which is not copied, and each row of the kernel is one
    matrix product. A few images at a time stay in the cache.
    """
    height, width = kernel_size
    channels = images.shape[-1]
    _, _, out_width, filters = dy.shape
    padding = (height - 1) * out_width

    def add(first: Any, total: Any) -> tuple[Any, Any]:
        part = images[first : first + IMAGES_IN_CACHE]
        shifted = tf.concat([part[:, :, k : k + out_width] for k in range(width)], -1)
        rows = tf.reshape(shifted, (-1, width * channels))
        zeros = [[0, 0], [0, height - 1], [0, 0], [0, 0]]
        outputs = tf.reshape(tf.pad(dy[first : first + IMAGES_IN_CACHE], zeros), (-1, filters))
        count = tf.shape(outputs)[0] - padding
        products = [
            tf.matmul(rows[start : start + count], outputs[:count], transpose_a=True)
            for start in range(0, padding + 1, out_width)
        ]
        return first + IMAGES_IN_CACHE, total + tf.stack(products)

    zero = tf.zeros((height, width * channels, filters), images.dtype)
    size = tf.shape(images)[0]
    _, total = tf.while_loop(lambda first, _: first < size, add, (0, zero), parallel_iterations=1)
    return tf.reshape(total, (height, width, channels, filters))


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation of images in one kernel.

    It is over the last axis, with float32 statistics.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001
        """Normalise `inputs`, (N, H, W, channels).

        Training also updates the moving statistics.
        """
        if not (training and self.trainable):
            return super().call(inputs, training=False, mask=mask)
        images = tf.cast(inputs, self.compute_dtype)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(images) / tf.shape(images)[-1], tf.float32)
        variance *= (count - 1) / count  # the kernel divides by count - 1, Keras by count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs


def with_fast_layers(model: keras.Model) -> keras.Model:
    """Return a copy of the network with faster layers.

    It has the same weights. In mixed precision the last layer computes in float32, because bfloat16
    probabilities are too coarse for a loss. A network, or a part of one, whose class is not Keras' own is
    left as it is.
    """
    last = model.outputs[0]._keras_history.operation if getattr(model, "outputs", None) else None  # noqa: SLF001
    return _replace_layers(model, last)


def _replace_layers(model: keras.Model, last: Any) -> keras.Model:
    if type(model).__module__.partition(".")[0] != "keras":
        return model

    def replace(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return _replace_layers(layer, last)
        if layer is last and isinstance(layer, keras.Layer) and layer.dtype_policy.name == "mixed_bfloat16":
            return type(layer).from_config({**layer.get_config(), "dtype": "float32"})
        for plain, fast, is_supported in _REPLACEMENTS:
            if type(layer) is plain and is_supported(layer):
                return fast.from_config(layer.get_config())
        return layer

    copy = keras.models.clone_model(model, clone_function=replace)
    copy.set_weights(model.get_weights())
    return copy


def is_byte_rate(layer: Any) -> bool:
    """Return whether `ByteDropout` can replace a dropout layer."""
    return layer.noise_shape is None and layer.rate < 1 and float(layer.rate * BYTE_VALUES).is_integer()


def _normalises_images(layer: Any) -> bool:
    is_last = layer.axis in (-1, 3)
    return is_last and layer.input_spec.ndim == 4 and layer.scale and layer.center and not layer.renorm  # noqa: PLR2004


def _has_slow_gradient(layer: Any) -> bool:
    """Return whether `FastConv2D` fits a convolution and is faster."""
    is_plain = layer.padding == "valid" and layer.data_format == "channels_last" and layer.groups == 1
    is_dense = (*layer.strides, *layer.dilation_rate) == (1, 1, 1, 1)
    is_wide = layer.kernel.shape[2] >= MIN_CHANNELS and layer.compute_dtype == "float32"
    is_on_cpu = not tf.config.get_visible_devices("GPU")
    return is_plain and is_dense and is_wide and is_on_cpu and cpu.has_slow_kernel_gradients()


_REPLACEMENTS = (
    (keras.layers.Conv2D, FastConv2D, _has_slow_gradient),
    (keras.layers.Dropout, ByteDropout, is_byte_rate),
    (keras.layers.BatchNormalization, FusedBatchNormalization, _normalises_images),
)
