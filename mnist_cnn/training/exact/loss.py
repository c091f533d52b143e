"""The exact loss. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mnist_cnn.training.exact import rounding


def cross_entropy(targets: Any, logits: Any, weights: Any = None) -> tuple[Any, Any]:
    """Return the mean cross-entropy and the softmax of logits.

    The mean is in nats, float64 (), the logits are float32 (B, classes). `targets`, float32 (B, classes), sum
    to 1 in each row. The gradient is (softmax - targets) / B. Loss and gradient are multiplied by the images'
    `weights`, float32 (B,), if there are any; then a loss counts as at most 1000, so that the mean is exact.
    """
    probabilities, logarithms = rounding.softmax(logits)
    of_image = None if weights is None else tf.cast(weights, tf.float64)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def loss(logits: Any) -> Any:
        wide = tf.cast(targets, tf.float64)
        sums = tf.reduce_sum(rounding.rounded(wide * logarithms), axis=1)  # (B,)
        if of_image is not None:
            sums = tf.maximum(sums * of_image, -1000.0)
        mean = -rounding.exact_mean(sums)

        def gradient(upstream: Any) -> Any:
            share = upstream / tf.cast(tf.shape(logits)[0], tf.float64)
            shares = share if of_image is None else (share * of_image)[:, None]
            return tf.cast((probabilities - wide) * shares, tf.float32)

        return mean, gradient

    return loss(logits), tf.cast(probabilities, tf.float32)
