"""The fused updates compute the same as Keras' own optimizers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mnist_cnn.config import Optimizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.mark.parametrize(("name", "rate"), [("adadelta", 1.0), ("adam", 0.01)])
def test_a_fused_update_equals_keras_own(keras: ModuleType, name: str, rate: float) -> None:
    """Compare variables and accumulators over 200 steps of random gradients, some of them tiny."""
    from mnist_cnn.training.fused_optimizers import FUSED

    plain: Any = keras.optimizers.get({"class_name": name, "config": {"learning_rate": rate}})
    fused: Any = FUSED[Optimizer(name)](rate)
    assert type(fused).update_step is not type(plain).update_step
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 3, 2, 4)).astype(np.float32), rng.normal(size=7).astype(np.float32)]
    variables = [[keras.Variable(array) for array in start] for _ in range(2)]
    plain.build(variables[0])
    fused.build(variables[1])
    for _ in range(200):
        gradients = [
            rng.normal(scale=10.0 ** rng.integers(-6, 2), size=a.shape).astype(np.float32) for a in start
        ]
        plain.apply(gradients, variables[0])
        fused.apply(gradients, variables[1])
    assert len(plain.variables) == len(fused.variables)
    pairs = [*zip(*variables, strict=True), *zip(plain.variables, fused.variables, strict=True)]
    for theirs, ours in pairs:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=2e-4, atol=1e-6)
    assert not np.allclose(np.asarray(variables[1][0]), start[0], atol=0.01)
