"""Each exact optimizer computes what Keras' own does, but for the last bits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mnist_cnn.config import Optimizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

RATES = {"adadelta": 1.0, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.01, "sgd": 0.1}


@pytest.mark.parametrize("name", Optimizer)
def test_an_exact_optimizer_updates_as_keras_own(keras: ModuleType, name: Optimizer) -> None:
    """Compare variables and accumulators over 50 steps of random gradients, some of them tiny or zero."""
    import tensorflow as tf

    from mnist_cnn.training.exact.optimizers import EXACT

    rate = RATES[name.value]
    plain: Any = keras.optimizers.get({"class_name": name.value, "config": {"learning_rate": rate}})
    exact: Any = EXACT[name](rate)
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2, 4)).astype(np.float32), rng.normal(size=7).astype(np.float32)]
    variables = [[keras.Variable(array) for array in start] for _ in range(2)]
    plain.build(variables[0])
    exact.build(variables[1])
    step = tf.function(lambda gradients: exact.apply(gradients, variables[1]), autograph=False)
    for number in range(50):
        scale = 10.0 ** rng.integers(-8, 3) * (number % 10 != 0)
        gradients = [rng.normal(scale=scale, size=a.shape).astype(np.float32) for a in start]
        plain.apply(gradients, variables[0])
        step([tf.constant(gradient) for gradient in gradients])
    assert [v.shape for v in plain.variables] == [v.shape for v in exact.variables]
    pairs = [*zip(*variables, strict=True), *zip(plain.variables, exact.variables, strict=True)]
    for theirs, ours in pairs:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-6)
    assert not np.allclose(np.asarray(variables[1][0]), start[0], atol=1e-3)


@pytest.mark.parametrize("name", Optimizer)
def test_a_gradient_that_is_not_finite_reaches_the_weights(keras: ModuleType, name: Optimizer) -> None:
    from mnist_cnn.training.exact.optimizers import EXACT

    for bad in (np.nan, np.inf, -np.inf):
        variable = keras.Variable(np.ones(3, np.float32))
        exact = EXACT[name](RATES[name.value])
        exact.build([variable])
        exact.apply([np.array([1, bad, 1], np.float32)], [variable])
        assert np.isfinite(np.asarray(variable)).tolist() == [True, False, True], bad


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("name", Optimizer)
def test_a_step_contains_no_approximate_reciprocal(keras: ModuleType, name: Optimizer) -> None:
    """Processors approximate these differently; Grappler makes them of a division by a root."""
    import tensorflow as tf

    from mnist_cnn.training.exact.optimizers import EXACT

    variable = keras.Variable(np.ones(3, np.float32))
    exact = EXACT[name](0.1)
    exact.build([variable])
    step = tf.function(lambda gradient: exact.apply([gradient], [variable]), autograph=False)
    graph = step.get_concrete_function(tf.TensorSpec(3)).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"Rsqrt", "Reciprocal", "Inv", "ResourceApplyAdadelta", "ResourceApplyRMSProp"}
    roots = {op.outputs[0].ref() for op in graph.get_operations() if op.type == "Sqrt"}
    for division in (op for op in graph.get_operations() if op.type == "RealDiv"):
        assert division.inputs[1].ref() not in roots
