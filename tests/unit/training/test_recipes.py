"""The recipes: what they are, and that each setting can still be changed."""

from __future__ import annotations

import pytest

from mnist_cnn import compose
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
