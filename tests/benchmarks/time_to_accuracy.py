"""Seconds of training and final test accuracy of each recipe, over several seeds.

A RECIPE is the name of a train= option, or several settings in quotes. It may end with `@` and a target
accuracy:

    python -m tests.benchmarks time-to-accuracy quick "balanced train.epochs=4 @0.994" --seeds 0-2

The seconds include building the network, tracing and all evaluations. The accuracy is that of the saved model
on the test set. Use it to measure recipes, not to choose them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from .machine import CommandError, command, printed
from .report import number, print_progress, table

TARGETS = {"quick": 0.99, "balanced": 0.994, "accurate": 0.996}  # of the recipes in conf/train


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training, and its target test accuracy, if any."""

    name: str
    overrides: tuple[str, ...]
    target: float | None

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Parse a recipe of the command line. Raises ArgumentTypeError if it isn't one."""
        settings, _, after_at = text.partition("@")
        words = shlex.split(settings)
        try:
            target = float(after_at) if after_at else None
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{after_at} is not an accuracy such as 0.99") from error
        if not words:
            raise argparse.ArgumentTypeError("a recipe needs the name of a train= option, or settings")
        overrides = tuple(word if "=" in word else f"train={word}" for word in words)
        option = next((word.partition("=")[2] for word in overrides if word.startswith("train=")), "")
        return cls(settings.strip(), overrides, TARGETS.get(option) if target is None else target)


@dataclasses.dataclass
class Trials:
    """Seed, seconds and test accuracy of each training of a recipe, or the error that prevented it."""

    recipe: Recipe
    seeds: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    accuracies: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None

    def reached(self) -> int:
        """Count the trainings that reached the target. Without a target, all did."""
        return sum(accuracy >= (self.recipe.target or 0) for accuracy in self.accuracies)

    def row(self) -> list[str]:
        """Return the row of the table."""
        if self.error is not None:
            return [self.recipe.name, self.error]
        times = (f"{of(self.seconds):.2f}" for of in (min, statistics.median))
        shares = (f"{of(self.accuracies):.2%}" for of in (min, statistics.median))
        target = self.recipe.target
        aim = ("", "") if target is None else (f"{target:.2%}", f"{self.reached()} of {len(self.accuracies)}")
        return [self.recipe.name, *times, *shares, *aim]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The trials of all recipes, as a table."""

    trials: Sequence[Trials]

    def text(self) -> str:
        """Return heads and a row for each recipe."""
        heads = ["recipe", "minimum s", "median s", "minimum accuracy", "median", "target", "reached"]
        return f"training from scratch\n{table(heads, [trials.row() for trials in self.trials])}"

    def as_mapping(self) -> dict[str, Any]:
        """Return all trainings, ready for JSON."""
        return {"recipes": [{**dataclasses.asdict(t), "reached": t.reached()} for t in self.trials]}


def seeds(text: str) -> Sequence[int]:
    """Parse a range or a list of seeds."""
    first, dash, last = text.partition("-")
    try:
        found = range(int(first), int(last) + 1) if dash else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not seeds such as 0-4 or 0,2,7") from error
    if not found:
        raise argparse.ArgumentTypeError(f"{text} contains no seed")
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "recipes": {
        "nargs": "*",
        "type": Recipe.parse,
        "default": [Recipe.parse(name) for name in TARGETS],
        "metavar": "RECIPE",
        "help": f"recipes to train (default: {' '.join(TARGETS)})",
    },
    "--rounds": number(1, "how often each seed is trained, for steadier seconds"),
    "--seeds": {"type": seeds, "default": range(5), "metavar": "LIST", "help": "0-4 (the default) or 0,2,7"},
}


def run(arguments: argparse.Namespace) -> list[Comparison]:
    """Train every recipe with the first seed, then with the next."""
    compared = [Trials(recipe) for recipe in arguments.recipes]
    for seed in [*arguments.seeds] * arguments.rounds:
        for trials in compared:
            if trials.error is None:
                train(trials, seed)
    return [Comparison(compared)]


def train(trials: Trials, seed: int) -> None:
    """Train once and record the outcome in `trials`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (*trials.recipe.overrides, f"seed={seed}", f"run_dir={folder}/run", "--json")
        try:
            result = printed(command(*settings))["result"]
        except CommandError as error:
            trials.error = str(error)
            return
    trials.seeds.append(seed)
    trials.seconds.append(result["training_seconds"])
    trials.accuracies.append(result["accuracy"])
    figures = f"{result['training_seconds']:.4g} s  {result['accuracy']:.2%}"
    print_progress(f"{trials.recipe.name}  seed {seed}  {figures}")
