"""The recipes: what they are, and that each setting can still be changed."""

from __future__ import annotations

import pytest

from mnist_cnn import compose
from mnist_cnn.config import Optimizer, Precision, Schedule, TrainConfig
from mnist_cnn.training.model import check_network

RECIPES = compose.options("train")


def test_these_recipes_exist() -> None:
    assert RECIPES == ["accurate", "balanced", "quick", "tutorial"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_a_network_but_single_settings_win(recipe: str) -> None:
    chosen = compose.load([f"train={recipe}"])
    check_network(chosen.model, 28, 28)
    other = compose.load([f"train={recipe}", "model=cnn", "train.epochs=2", "train.shift=1"])
    assert other.model == compose.load(["model=cnn"]).model
    assert (other.train.epochs, other.train.shift) == (2, 1)
    assert other.train.learning_rate == chosen.train.learning_rate
    narrower = compose.load([f"train={recipe}", "model.filters=[8,8,8]"])
    assert narrower.model.filters == (8, 8, 8)
    assert narrower.model.batch_norm == chosen.model.batch_norm


ONE_CYCLE = {
    "optimizer": Optimizer.adam, "learning_rate": 0.01, "schedule": Schedule.one_cycle,
    "label_smoothing": 0.05, "precision": Precision.auto, "exact_bits": 8,
}  # fmt: skip
VALUES: dict[str, dict[str, object]] = {
    "tutorial": {},
    "quick": {**ONE_CYCLE, "epochs": 1, "batch_size": 64},
    "balanced": {
        **ONE_CYCLE, "epochs": 5, "rotation": 10.0, "zoom": 0.1, "shear": 0.1, "shift": 2.0,
        "unaugmented_epochs": 1,
    },
    "accurate": {
        **ONE_CYCLE, "epochs": 20, "rotation": 12.0, "zoom": 0.12, "shear": 0.15, "shift": 2.0,
        "unaugmented_epochs": 2,
    },
}  # fmt: skip
"""How each recipe differs from the tutorial. Its published accuracy was measured with these values."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_values_with_which_it_was_measured(recipe: str) -> None:
    assert compose.load([f"train={recipe}"]).train == TrainConfig(**VALUES[recipe])  # type: ignore[arg-type]
