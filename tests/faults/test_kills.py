"""A training that is really killed, again and again, ends in the weights of one that was not."""

from __future__ import annotations

from pathlib import Path

from faults.kills import survive

KILLS = 8
"""A few of the fifty of `python -m tests.faults kills`; each costs the start of a trainer."""


def test_killed_at_random_moments_a_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    survived = survive(tmp_path, KILLS, seed=1)
    assert survived.differing == ()
    assert survived.kills.total() == KILLS
    assert survived.damaged == 0
    assert survived.never_hit == (), survived.table()
