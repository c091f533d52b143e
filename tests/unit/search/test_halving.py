"""Which trial trains next: tables, and whole searches without a training."""

from __future__ import annotations

import random

import pytest

from mnist_cnn.search.halving import Plan, Promote, Start, Trial, best, next_step, rung_after, rungs

PLAN = Plan(trials=9, rungs=(1, 3, 9), reduction=3)


def paused(number: int, *accuracies: float) -> Trial:
    return Trial(number, accuracies, target=len(accuracies))


@pytest.mark.parametrize(
    ("epochs", "min_epochs", "reduction", "expected"),
    [
        (9, 1, 3, (1, 3, 9)),
        (5, 1, 3, (1, 3, 5)),
        (12, 2, 2, (2, 4, 8, 12)),
        (1, 1, 3, (1,)),
        (12, 12, 3, (12,)),
        (12, 1, 1, (12,)),
    ],
)
def test_rungs_grow_up_to_the_end_of_the_training(
    epochs: int, min_epochs: int, reduction: int, expected: tuple[int, ...]
) -> None:
    assert rungs(epochs, min_epochs, reduction) == expected


def test_the_rung_after_the_last_is_the_last() -> None:
    assert [rung_after(epochs, (1, 3, 9)) for epochs in (0, 1, 2, 3, 9)] == [1, 3, 3, 9, 9]


def test_a_free_place_starts_a_trial_until_a_third_is_known_to_be_better() -> None:
    two = [paused(0, 0.5), paused(1, 0.7)]
    assert next_step(two, PLAN) == Start()
    assert next_step([*two, paused(2, 0.6)], PLAN) == Promote(1)


def test_a_trial_is_promoted_later_if_others_turn_out_worse() -> None:
    promoted = Trial(0, (0.9,), target=3, is_running=True)
    known = [promoted, paused(1, 0.8), paused(2, 0.2), paused(3, 0.3), paused(4, 0.4)]
    assert next_step(known, PLAN) == Start()
    assert next_step([*known, paused(5, 0.1)], PLAN) == Promote(1)


def test_the_highest_rung_is_served_first() -> None:
    top = [paused(number, 0.1, 0.1, accuracy) for number, accuracy in enumerate((0.7, 0.9, 0.8))]
    waiting = [paused(number, 0.9) for number in (3, 4, 5)]
    assert next_step([*top, *waiting], PLAN) == Promote(1)


def test_equal_accuracies_promote_the_older_trial() -> None:
    assert next_step([paused(2, 0.5), paused(0, 0.5), paused(1, 0.5)], PLAN) == Promote(0)


def test_a_failed_trial_is_never_promoted() -> None:
    failed = Trial(1, (0.9,), target=1, has_failed=True)
    assert next_step([paused(0, 0.5), failed, paused(2, 0.6)], PLAN) == Start()
    assert best([paused(0, 0.5), failed]) == paused(0, 0.5)
    assert best([failed]) is None


def test_the_end_waits_for_running_trials_and_then_trains_the_best_to_its_end() -> None:
    plan = Plan(trials=2, rungs=(1, 3, 9), reduction=3)
    running = Trial(1, target=1, is_running=True)
    assert next_step([paused(0, 0.5), running], plan) is None
    assert next_step([paused(0, 0.5), paused(1, 0.6)], plan) == Promote(1)
    assert next_step([paused(0, 0.5), paused(1, 0.6, 0.7, 0.8)], plan) == Promote(1)
    assert next_step([paused(0, 0.5), paused(1, *[0.6] * 9)], plan) is None
    assert next_step([paused(0, 0.5), Trial(1, (0.6,), target=3, has_failed=True)], plan) == Promote(0)


def test_without_halving_each_trial_is_trained_to_its_end() -> None:
    plan = Plan(trials=2, rungs=(4,), reduction=1)
    whole = paused(0, 0.1, 0.2, 0.3, 0.4)
    assert next_step([whole], plan) == Start()
    assert next_step([whole, whole], plan) is None


@pytest.mark.parametrize("places", [1, 4, 27])
@pytest.mark.parametrize("seed", range(5))
def test_a_whole_search_ends_and_trains_no_epoch_twice(places: int, seed: int) -> None:
    """The place that ends next is drawn, as on a cluster; quality decides the accuracies."""
    draw = random.Random(seed)  # noqa: S311 - a simulation
    plan = Plan(trials=27, rungs=rungs(27, 1, 3), reduction=3)
    quality = {number: draw.random() for number in range(plan.trials)}
    trials: dict[int, Trial] = {}
    trained = 0
    while True:
        running = [trial for trial in trials.values() if trial.is_running]
        step = next_step(list(trials.values()), plan) if len(running) < places else None
        if isinstance(step, Start):
            trials[len(trials)] = Trial(len(trials), target=plan.rungs[0], is_running=True)
        elif step is not None:
            before = trials[step.number]
            target = rung_after(before.epochs, plan.rungs)
            trials[step.number] = Trial(step.number, before.accuracies, target, is_running=True)
        elif running:
            ended = draw.choice(running)
            trained += ended.target - ended.epochs
            trials[ended.number] = paused(ended.number, *[quality[ended.number]] * ended.target)
        else:
            break
    assert len(trials) == plan.trials
    assert trained == sum(trial.epochs for trial in trials.values()) < 27 * 27 / 2
    winner = best(list(trials.values()))
    assert winner is not None
    assert winner.epochs == 27
    assert quality[winner.number] == max(quality.values())
