"""Asynchronous successive halving, as pure functions.

They decide which trial trains next, and up to which epoch. Of all trials that have reached a rung, a number
of epochs, the best 1 / `reduction` are promoted to the next one, as soon as they are known. This is ASHA of
Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
https://arxiv.org/abs/1810.05934, algorithm 2. Optuna's pruner of that name can only stop a trial, not pause
it and promote it later, so the decision is made here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    `accuracies` are those on the validation images after each epoch so far. It trains up to the epoch
    `target`, which is a rung. A trial that `is_running` has not reached it yet; one that `has_failed` never
    will.
    """

    number: int
    accuracies: tuple[float, ...] = ()
    target: int = 0
    is_running: bool = False
    has_failed: bool = False

    @property
    def epochs(self) -> int:
        """How many epochs the trial has trained."""
        return len(self.accuracies)


@dataclasses.dataclass(frozen=True)
class Start:
    """Start a new trial."""


@dataclasses.dataclass(frozen=True)
class Promote:
    """Continue a paused trial."""

    number: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many trials run, and when to compare them."""

    trials: int
    rungs: tuple[int, ...]
    reduction: int


def rungs(epochs: int, min_epochs: int, reduction: int) -> tuple[int, ...]:
    """Return the epochs at which trials are compared.

    The last is the end of the training.
    """
    found = []
    epoch = min_epochs
    while reduction > 1 and epoch < epochs:
        found.append(epoch)
        epoch *= reduction
    return (*found, epochs)


def rung_after(epochs: int, rungs: Sequence[int]) -> int:
    """Return a trial's next rung, or the last one."""
    return next((rung for rung in rungs if rung > epochs), rungs[-1])


def next_step(trials: Sequence[Trial], plan: Plan) -> Start | Promote | None:
    """Return what a free place does next.

    Promotes a trial, or else starts one. None means that running trials must end first, or that the search
    has ended. In the end one trial is trained to the last rung, even if there are too few for a share of 1 /
    `reduction`.
    """
    for rung in reversed(plan.rungs[:-1]):
        reached = sorted(
            (trial for trial in trials if trial.epochs >= rung), key=lambda trial: _rank(trial, rung)
        )
        for trial in reached[: len(reached) // plan.reduction]:
            if trial.target == rung and not trial.has_failed:
                return Promote(trial.number)
    if len(trials) < plan.trials:
        return Start()
    leader = best(trials)
    if leader is None or any(trial.is_running for trial in trials) or leader.epochs >= plan.rungs[-1]:
        return None
    return Promote(leader.number)


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the best of the longest-trained trials, or None."""
    sound = [trial for trial in trials if trial.epochs and not trial.has_failed]
    longest = max((trial.epochs for trial in sound), default=0)
    compared = (trial for trial in sound if trial.epochs == longest)
    return min(compared, key=lambda trial: _rank(trial, longest), default=None)


def _rank(trial: Trial, rung: int) -> tuple[float, int]:
    """Return the key that sorts trials, best first.

    It is the accuracy at a rung; of equal ones the older is better.
    """
    return -trial.accuracies[rung - 1], trial.number
