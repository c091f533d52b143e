"""The fused updates compute what Keras' own optimizers compute."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mnist_cnn.config import Optimizer, Schedule, TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.mark.parametrize(("name", "rate"), [("adadelta", 1.0), ("adam", 0.01)])
def test_a_fused_update_is_keras_own(keras: ModuleType, name: str, rate: float) -> None:
    """Over 200 steps of random gradients, some of them tiny: variables and accumulators alike."""
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


@pytest.mark.usefixtures("keras")
def test_every_optimizer_of_the_schema_can_be_made_with_each_schedule() -> None:
    from mnist_cnn.training.epoch import optimizer

    for name in Optimizer:
        made = optimizer(TrainConfig(optimizer=name, learning_rate=0.5), steps=10)
        assert float(made.learning_rate) == 0.5
        made = optimizer(
            TrainConfig(optimizer=name, learning_rate=0.5, schedule=Schedule.one_cycle), steps=10
        )
        assert float(made.learning_rate) == pytest.approx(0.005)


@pytest.mark.usefixtures("keras")
def test_the_one_cycle_rate_rises_and_falls_in_straight_lines() -> None:
    from mnist_cnn.training.schedule import OneCycle

    rate = OneCycle(peak=2.0, steps=100, warmup=0.25)
    assert [float(rate(step)) for step in (0, 5, 25, 40, 70)] == pytest.approx([0.02, 0.4, 2.0, 1.6, 0.8])
    assert float(rate(99)) == pytest.approx(2.0 / 75)
    assert float(rate(100)) == pytest.approx(0.02)
    all_rates = [
        float(OneCycle(peak=1.0, steps=4, warmup=share)(step)) for share in (0, 1) for step in range(5)
    ]
    assert all(0.0099 < value <= 1 for value in all_rates)
