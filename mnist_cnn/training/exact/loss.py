"""The exact loss. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mnist_cnn.training.exact import rounding


def cross_entropy(targets: Any, logits: Any) -> tuple[Any, Any]:
    """Return the mean cross-entropy in nats, float64 (), of logits, float32 (B, classes), and their softmax.

    `targets`, float32 (B, classes), sum to 1 in each row. The gradient is (softmax - targets) / B.
    """
    probabilities, logarithms = rounding.softmax(logits)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def loss(logits: Any) -> Any:
        wide = tf.cast(targets, tf.float64)
        mean = -rounding.exact_mean(tf.reduce_sum(rounding.rounded(wide * logarithms), axis=1))

        def gradient(upstream: Any) -> Any:
            share = upstream / tf.cast(tf.shape(logits)[0], tf.float64)
            return tf.cast((probabilities - wide) * share, tf.float32)

        return mean, gradient

    return loss(logits), tf.cast(probabilities, tf.float32)
