"""Builds the network, and hashes a model's weights.

The functions import Keras, not the module, so that a configuration can be checked without TensorFlow.
"""

from __future__ import annotations

import ast
import hashlib
from typing import TYPE_CHECKING, Any

from mnist_cnn.config import Format
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import written

if TYPE_CHECKING:
    from collections.abc import Iterable

    import keras

    from mnist_cnn.config import ModelConfig

BUILD = "build"  # the function of a network file: (config, input_shape, num_classes) -> keras.Model


def check_network(config: ModelConfig, height: int, width: int) -> None:
    """Check, without Keras, that the network fits the images.

    Raises ConfigurationError if a kernel or pooling window is larger than its input, or the network file is
    not valid Python or defines no `build`.
    """
    if config.source is not None:
        _check_source(config)
        return
    if max(config.pooled_convolutions) > len(config.filters):
        pools, count = written(config.pool_after), len(config.filters)
        message = f"model.pool_after={pools}: model.filters has {count} convolutions"
        raise ConfigurationError(message, "[] pools after the last of them")
    size = min(height, width)
    for number, (kernel_size, stride) in enumerate(convolutions(config), 1):
        is_stem = number == 1 and config.stem_kernel_size is not None
        key = "model.stem_kernel_size" if is_stem else "model.kernel_size"
        _check_fits(key, kernel_size, size, f"convolution {number}")
        size = (size - kernel_size) // stride + 1
        if number in config.pooled_convolutions:
            _check_fits("model.pool_size", config.pool_size, size, f"the pooling after convolution {number}")
            size //= config.pool_size


def build_model(
    config: ModelConfig, input_shape: tuple[int, ...], num_classes: int, image_format: Format, policy: str
) -> keras.Model:
    """Build the network: float32 images -> class probabilities.

    Images are in [0, 1]. Probabilities are float32 (batch, num_classes). `input_shape` is the shape of one
    image. `policy` is Keras' dtype policy, "float32" or "mixed_bfloat16". The initial weights come from
    Keras' global seed.

    Raises ConfigurationError if the network file fails, or its network has the wrong shape.
    """
    import keras

    keras.config.set_image_data_format(image_format.value)
    keras.config.set_dtype_policy(policy)
    try:
        if config.source is not None:
            return _build_from_source(config, input_shape, num_classes)
        layers = keras.layers
        channel_axis = -1 if image_format is Format.channels_last else 1
        network: list[keras.Layer] = [keras.Input(input_shape, name="image")]
        for number, (kernel_size, stride) in enumerate(convolutions(config), 1):
            normalised = is_normalised(config, number)
            settings: dict[str, Any] = {"use_bias": False} if normalised else {"activation": "relu"}
            network += [layers.Conv2D(config.filters[number - 1], kernel_size, stride, **settings)]
            if number in config.pooled_convolutions:
                network += [layers.MaxPooling2D(config.pool_size)]
            if normalised:
                network += [layers.BatchNormalization(channel_axis, config.batch_norm_momentum)]
                network += [layers.ReLU()]
        network += [layers.Dropout(config.conv_dropout)] if config.conv_dropout else []
        network += [layers.Flatten()]
        if config.dense_units:
            network += [layers.Dense(config.dense_units, activation="relu")]
            network += [layers.Dropout(config.dense_dropout)] if config.dense_dropout else []
        network += [layers.Dense(num_classes, activation="softmax", dtype="float32", name="probabilities")]
        return keras.Sequential(network, name="mnist_cnn")
    finally:
        keras.config.set_dtype_policy("float32")


def convolutions(config: ModelConfig) -> list[tuple[int, int]]:
    """Return kernel size and stride of each convolution.

    The first (the stem) may have its own.
    """
    stem = (config.stem_kernel_size or config.kernel_size, config.stem_stride)
    return [stem, *[(config.kernel_size, 1)] * (len(config.filters) - 1)]


def is_normalised(config: ModelConfig, number: int) -> bool:
    """Return whether a convolution has batch normalisation.

    `number` counts from 1.
    """
    return config.batch_norm and number > 1


def weight_shapes(config: ModelConfig, height: int, width: int, num_classes: int) -> list[tuple[int, ...]]:
    """Return the network's weight shapes, without Keras.

    `height` and `width` are those of the images.
    """
    shapes: list[tuple[int, ...]] = []
    channels = 1
    for number, (kernel_size, stride) in enumerate(convolutions(config), 1):
        filters = config.filters[number - 1]
        height, width = ((size - kernel_size) // stride + 1 for size in (height, width))
        shapes.append((kernel_size, kernel_size, channels, filters))
        if number in config.pooled_convolutions:
            height, width = height // config.pool_size, width // config.pool_size
        shapes += [(filters,)] * (4 if is_normalised(config, number) else 1)
        channels = filters
    inputs = height * width * channels
    for units in filter(None, (config.dense_units, num_classes)):
        shapes += [(inputs, units), (units,)]
        inputs = units
    return shapes


def layers_with_weights(config: ModelConfig) -> list[str]:
    """Return Keras' names of the layers with weights.

    They are in order, as Keras saves them.
    """
    kinds = []
    for number in range(1, len(config.filters) + 1):
        kinds += ["conv2d", *["batch_normalization"] * is_normalised(config, number)]
    kinds += ["dense"] * (2 if config.dense_units else 1)
    numbers = (kinds[:place].count(kind) for place, kind in enumerate(kinds))
    return [f"{kind}_{number}" if number else kind for kind, number in zip(kinds, numbers, strict=True)]


def weights_sha256(model: keras.Model) -> str:
    """Return `arrays_sha256` of a model's weights."""
    return arrays_sha256(model.weights)


def arrays_sha256(weights: Iterable[Any]) -> str:
    """Return the SHA-256, in hex, over weights in order.

    For each weight: index, dtype and shape as text, then its little-endian bytes in C order. Variable paths
    are not hashed, because Keras numbers them differently in each model.
    """
    import numpy as np

    digest = hashlib.sha256()
    for index, weight in enumerate(weights):
        array = np.asarray(weight)
        digest.update(f"{index} {array.dtype.name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _check_fits(key: str, window: int, size: int, layer: str) -> None:
    if size < window:
        message = f"{key}={window}: the input of {layer} is only {size} pixels wide"
        raise ConfigurationError(message, "use smaller kernels and poolings, or fewer model.filters")


def _check_source(config: ModelConfig) -> None:
    hint = f"define a function {BUILD}(config, input_shape, num_classes) that returns a keras.Model"
    try:
        tree = ast.parse(config.source or "", filename=str(config.file))
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""  # a null byte has none
        message = f"model.file={config.file}{line}: {error.msg}"
        raise ConfigurationError(message, "correct it; it must be valid Python") from error
    except (ValueError, RecursionError, MemoryError) as error:  # of deep nesting
        raise ConfigurationError(f"model.file={config.file} is not valid Python: {error}", hint) from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == BUILD for node in tree.body):
        raise ConfigurationError(f"model.file={config.file} defines no function {BUILD}", hint)


def _build_from_source(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    import keras

    hint = f"correct {BUILD}() in that file"
    namespace: dict[str, Any] = {"__name__": "network"}
    try:
        exec(compile(config.source or "", str(config.file), "exec"), namespace)  # noqa: S102 - the job's own code
        model = namespace[BUILD](config, input_shape, num_classes)
    except Exception as error:
        cause = str(error).removeprefix(f"model.file={config.file}: ")
        message = f"model.file={config.file}: {BUILD}() failed: {type(error).__name__}: {cause}"
        raise ConfigurationError(" ".join(message.split()), hint) from error
    if not isinstance(model, keras.Model):
        raise ConfigurationError(f"model.file={config.file}: {BUILD}() did not return a keras.Model", hint)
    shapes = (model.input_shape, model.output_shape)
    if shapes != ((None, *input_shape), (None, num_classes)):
        message = (
            f"model.file={config.file}: its network maps {shapes[0]} to {shapes[1]}, "
            f"but must map {(None, *input_shape)} to {(None, num_classes)}"
        )
        raise ConfigurationError(message, hint)
    _check_probabilities(model, config)
    return model


def _check_probabilities(model: keras.Model, config: ModelConfig) -> None:
    """Raise ConfigurationError if a custom network fails, or returns logits or the like, for random images.

    NaN is left to the training, which reports it.
    """
    import numpy as np

    images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
    try:
        outputs = np.asarray(model(images, training=False), np.float32)  # (4, classes)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"model.file={config.file}: its network fails: {cause}"
        raise ConfigurationError(message, "correct its layers") from error
    sums = outputs.sum(axis=1)
    # Sums in bfloat16, whose values have 8 significant bits, are this far from 1.
    if np.isfinite(outputs).all() and not (outputs.min() >= 0 and np.allclose(sums, 1, atol=0.05)):
        raise ConfigurationError(
            f"model.file={config.file}: its network returns no probabilities, but values from "
            f"{outputs.min():.3g} to {outputs.max():.3g} that add up to {sums[0]:.3g}",
            f'give the last layer of {BUILD}() activation="softmax", or add layers.Softmax() after it',
        )
