"""Seconds of training that a recipe takes, and the test accuracy that it ends at, over several seeds.

A RECIPE is the name of a train= option, or settings in quotes, the first of them perhaps such a name; `@` and
the accuracy that it is to reach may end it:

    python -m tests.benchmarks time-to-accuracy quick "balanced train.epochs=4 @0.994" --seeds 0-2

The seconds go from the network's building to the end of the last epoch, with all tracing and evaluations; the
accuracy is that of the saved model, on the test set: it measures recipes, and is no means to choose them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from .machine import Refused, command, printed
from .report import say, summary, table

ROUNDS = 1
ROUND = "how often each seed is trained, for steadier seconds (default: %(default)s)"
TARGETS = {"quick": 0.99, "balanced": 0.994, "accurate": 0.996}
"""Test accuracies that the recipes in conf/train are there for."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training, and the test accuracy that it is to reach, if any."""

    name: str
    overrides: tuple[str, ...]
    target: float | None

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read a recipe as the command line has it.

        Raises:
            argparse.ArgumentTypeError: what follows `@` is no number, or nothing precedes it.
        """
        settings, _, target = text.partition("@")
        words = shlex.split(settings)
        try:
            reached = float(target) if target else None
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{target} is no accuracy, as 0.99 is") from error
        if not words:
            raise argparse.ArgumentTypeError("a recipe names a train= option or settings")
        overrides = tuple(word if "=" in word else f"train={word}" for word in words)
        chosen = next((word.partition("=")[2] for word in overrides if word.startswith("train=")), "")
        return cls(settings.strip(), overrides, reached if target else TARGETS.get(chosen))


@dataclasses.dataclass
class Trials:
    """What came of a recipe: a seed, seconds and test accuracy of each training, or why there is none."""

    recipe: Recipe
    seeds: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    accuracies: list[float] = dataclasses.field(default_factory=list)
    refusal: str | None = None

    def reached(self) -> int:
        """Count the trainings that reached the target; all of them where there is none."""
        return sum(accuracy >= (self.recipe.target or 0) for accuracy in self.accuracies)

    def row(self) -> list[str]:
        """Return the table's row."""
        if self.refusal is not None:
            return [self.recipe.name, self.refusal]
        times, shares = self.seconds, self.accuracies
        target = self.recipe.target
        return [
            self.recipe.name,
            f"{min(times):.2f}",
            f"{statistics.median(times):.2f}",
            f"{min(shares):.2%}",
            f"{statistics.median(shares):.2%}",
            "" if target is None else f"{target:.2%}",
            "" if target is None else f"{self.reached()} of {len(shares)}",
        ]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All recipes' trials, as a table."""

    trials: Sequence[Trials]

    def text(self) -> str:
        """Return heads and a row for each recipe."""
        heads = ["recipe", "least s", "median s", "least accuracy", "median", "target", "reached"]
        return f"training from nothing\n{table(heads, [trials.row() for trials in self.trials])}"

    def as_mapping(self) -> dict[str, Any]:
        """Return every training."""
        return {"recipes": [{**dataclasses.asdict(t), "reached": t.reached()} for t in self.trials]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark asks besides."""
    parser.add_argument(
        "recipes",
        nargs="*",
        type=Recipe.parse,
        default=[Recipe.parse(name) for name in TARGETS],
        metavar="RECIPE",
        help=f"what is trained (default: {' '.join(TARGETS)})",
    )
    parser.add_argument(
        "--seeds", type=seeds, default=range(5), metavar="LIST", help="as 0-4 (the default) or 0,2,7"
    )


def seeds(text: str) -> Sequence[int]:
    """Read seeds, as a range or as a list."""
    first, dash, last = text.partition("-")
    try:
        found = range(int(first), int(last) + 1) if dash else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is neither like 0-4 nor like 0,2,7") from error
    if not found:
        raise argparse.ArgumentTypeError(f"there is no seed in {text}")
    return found


def run(arguments: argparse.Namespace) -> list[Comparison]:
    """Train every recipe with one seed, then with the next."""
    compared = [Trials(recipe) for recipe in arguments.recipes]
    for seed in [*arguments.seeds] * arguments.rounds:
        for trials in compared:
            if trials.refusal is None:
                train(trials, seed)
    return [Comparison(compared)]


def train(trials: Trials, seed: int) -> None:
    """Train once and enter what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (*trials.recipe.overrides, f"seed={seed}", f"run_dir={folder}/run", "--json")
        try:
            result = printed(command(*settings))["result"]
        except Refused as refusal:
            trials.refusal = str(refusal)
            return
    trials.seeds.append(seed)
    trials.seconds.append(result["training_seconds"])
    trials.accuracies.append(result["accuracy"])
    say(f"{trials.recipe.name}  seed {seed}  {summary(trials.seconds[-1:])} s  {result['accuracy']:.2%}")
