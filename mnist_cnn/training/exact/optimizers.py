"""Optimizers that compute the same on every machine.

They use Keras' formulas without approximate reciprocals. Processors approximate 1 / sqrt(x) and, in float32,
1 / x differently. Grappler turns x / sqrt(y) into x * rsqrt(y), and 1 / y into an approximate reciprocal. It
leaves sqrt(x / y) as it is, unless x is 1. Imports Keras and TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mnist_cnn.config import Optimizer
from mnist_cnn.training.exact import rounding
from mnist_cnn.training.fused_optimizers import handle


class ExactAdadelta(keras.optimizers.Adadelta):  # type: ignore[misc]
    """Keras' Adadelta (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its two accumulators.

        `gradient` has the variable's shape.
        """
        index = self._get_variable_index(variable)
        gradients, updates = self._accumulated_grads[index], self._accumulated_delta_vars[index]
        rate = tf.cast(learning_rate, tf.float32)
        mean = gradients * self.rho + tf.square(gradient) * (1 - self.rho)
        update = gradient * tf.sqrt((updates + self.epsilon) / (mean + self.epsilon))
        self.assign(gradients, mean)
        self.assign(updates, updates * self.rho + tf.square(update) * (1 - self.rho))
        self.assign_sub(variable, update * rate)


class ExactRMSprop(keras.optimizers.RMSprop):  # type: ignore[misc]
    """Keras' RMSprop (Hinton 2012, Coursera, lecture 6), without momentum."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its moving mean of squares.

        `gradient` has the variable's shape.
        """
        squares = self._velocities[self._get_variable_index(variable)]
        mean = squares * self.rho + tf.square(gradient) * (1 - self.rho)
        self.assign(squares, mean)
        rate = tf.cast(learning_rate, tf.float32)
        self.assign_sub(variable, gradient * tf.sqrt(tf.square(rate) / (mean + self.epsilon)))


class _ExactAdam:
    """Adam's update by TensorFlow's kernel.

    Its divisions and roots are those of IEEE 754.
    """

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its two moments.

        `gradient` has the variable's shape.
        """
        index = self._get_variable_index(variable)
        step = self.iterations + 1
        tf.raw_ops.ResourceApplyAdam(
            var=handle(variable),
            m=handle(self._momentums[index]),
            v=handle(self._velocities[index]),
            beta1_power=rounding.power(self.beta_1, step),
            beta2_power=rounding.power(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class ExactAdam(_ExactAdam, keras.optimizers.Adam):  # type: ignore[misc]
    """Keras' Adam (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980)."""


class ExactAdamW(_ExactAdam, keras.optimizers.AdamW):  # type: ignore[misc]
    """Keras' AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101)."""

    def _apply_weight_decay(self, variables: Any) -> None:
        """Shrink variables.

        Grappler would change the order of Keras' two multiplications.
        """
        factor = tf.cast(self.learning_rate, tf.float32) * self.weight_decay
        for variable in filter(self._use_weight_decay, variables):
            self.assign_sub(variable, variable * factor)


EXACT = {
    Optimizer.adadelta: ExactAdadelta,
    Optimizer.adam: ExactAdam,
    Optimizer.adamw: ExactAdamW,
    Optimizer.rmsprop: ExactRMSprop,
    Optimizer.sgd: keras.optimizers.SGD,
}
