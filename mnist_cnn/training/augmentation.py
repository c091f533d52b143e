"""Random affine changes of training images, in the graph: they are turned, resized, slanted and moved.

Imports TensorFlow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from mnist_cnn.config import TrainConfig


def is_asked(config: TrainConfig) -> bool:
    """Tell whether the configuration changes images at all."""
    return any((config.rotation, config.zoom, config.shear, config.shift))


def distort(images: Any, config: TrainConfig, seed: Any, augment_scale: Any) -> Any:
    """Change each image at random, within the bounds of the configuration times `augment_scale`, in [0, 1].

    `images` are float32 (B, H, W, 1); where an image is moved away from there is 0. What is drawn is a pure
    function of `seed`, int64 (2,). At augment_scale 0 the images are what they were.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.random.stateless_uniform([5, count], seed, -augment_scale, augment_scale)  # (5, B)
    angle = draws[0] * (math.pi / 180 * config.rotation)
    zoom = 1 + draws[1] * config.zoom
    shear = draws[2] * config.shear
    # The kernel wants, for each image, the affine map from a pixel of the result to one of the source.
    cos, sin = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos  # rotation, then shear along the rows
    x_centre, y_centre = (width - 1) / 2, (height - 1) / 2
    x_offset = x_centre - (a * x_centre + b * y_centre) + draws[3] * config.shift
    y_offset = y_centre - (c * x_centre + d * y_centre) + draws[4] * config.shift
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x_offset, c, d, y_offset, zero, zero], axis=1),  # (B, 8)
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
