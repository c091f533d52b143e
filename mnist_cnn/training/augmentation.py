"""Random rotation, zoom, shear and shift of images.

Imports TensorFlow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from mnist_cnn.training.exact import rounding

if TYPE_CHECKING:
    from mnist_cnn.config import TrainConfig


def distort(
    images: Any,
    config: TrainConfig,
    seed: Any,
    augment_scale: Any,
    *,
    is_exact: bool = False,
) -> Any:
    """Return the images, each distorted at random.

    `images` are float32 (B, H, W, 1). The bounds are those of the configuration times `augment_scale`, which
    is in [0, 1]; at 0 the images do not change. Pixels from outside an image are 0. The draws depend only on
    `seed`, int64 (2,).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.random.stateless_uniform([5, count], seed, -augment_scale, augment_scale)  # (5, B)
    angle = draws[0] * (math.pi / 180 * config.rotation)
    zoom = 1 + draws[1] * config.zoom
    shear = draws[2] * config.shear
    # The kernel takes, for each image, the affine map from a pixel of the result to a pixel of the source.
    cos, sin = rounding.cos_and_sin(angle) if is_exact else (tf.cos(angle), tf.sin(angle))
    cos, sin = cos / zoom, sin / zoom
    a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos  # rotation, then shear along the rows
    x_centre, y_centre = (width - 1) / 2, (height - 1) / 2
    if is_exact and width == height:  # Grappler would take the equal centres out of the sums below
        x_offset, y_offset = x_centre * (1 - a - b), y_centre * (1 - c - d)
    else:
        x_offset = x_centre - (a * x_centre + b * y_centre)
        y_offset = y_centre - (c * x_centre + d * y_centre)
    x_offset, y_offset = x_offset + draws[3] * config.shift, y_offset + draws[4] * config.shift
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x_offset, c, d, y_offset, zero, zero], axis=1),  # (B, 8)
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
