"""Adadelta and Adam with one kernel per update.

Keras writes each update of a variable as a dozen operations, and each of them reads the whole variable.
TensorFlow's kernels compute the same formulas in one pass. Imports Keras and TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mnist_cnn.config import Optimizer


class FusedAdadelta(keras.optimizers.Adadelta):  # type: ignore[misc]
    """Keras' Adadelta (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its two accumulators.

        `gradient` has the variable's shape.
        """
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdadelta(
            var=handle(variable),
            accum=handle(self._accumulated_grads[index]),
            accum_update=handle(self._accumulated_delta_vars[index]),
            lr=tf.cast(learning_rate, variable.dtype),
            rho=tf.constant(self.rho, variable.dtype),
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Keras' Adam (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980)."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its two moments.

        `gradient` has the variable's shape.
        """
        index = self._get_variable_index(variable)
        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=handle(variable),
            m=handle(self._momentums[index]),
            v=handle(self._velocities[index]),
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )


FUSED = {Optimizer.adadelta: FusedAdadelta, Optimizer.adam: FusedAdam}  # the others are Keras' own


def handle(variable: Any) -> Any:
    """Return a TensorFlow or Keras variable's resource handle."""
    return variable.value.handle if isinstance(variable, keras.Variable) else variable.handle
