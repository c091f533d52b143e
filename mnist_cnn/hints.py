"""What hints suggest: commands, and corrected words."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

ALIASES = {
    "acc": "accuracy",
    "batch": "batch_size",
    "bs": "batch_size",
    "classes": "num_classes",
    "lr": "learning_rate",
    "opt": "optimizer",
}
"""Names that other tools use."""
SIMILAR = 0.65
"""The least ratio of `difflib` at which a word is suggested."""


def program() -> str:
    """Return how the user called this program."""
    called = Path(next(iter(sys.argv), "")).name
    return "mnist-cnn" if called.startswith("mnist-cnn") else "python -m mnist_cnn"


def command_line(*words: Path | str) -> str:
    """Return a shell command of this program.

    Quotes its words: `mnist-cnn resume 'my runs/a' force=true`.
    """
    return f"{program()} {shlex.join(map(str, words))}"


def see_the_runs(*settings: str) -> str:
    """Return how to list the runs.

    `settings` are for example `runs_dir=FOLDER`.
    """
    return f"see the runs: {command_line('list', *settings)}"


def did_you_mean(name: str, known: Collection[str], otherwise: str) -> str:
    """Return a hint with the `known` word that was meant, or `otherwise`."""
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else otherwise


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the `known` word that was meant, or None.

    It has the same last part after a dot, as `train.epochs` has for `epochs`, or is spelled similarly.
    """
    from difflib import SequenceMatcher

    group, _, last = name.rpartition(".")
    last = ALIASES.get(last, last)

    def similarity(word: str) -> float:
        its_group, _, its_last = word.rpartition(".")
        if its_last == last:
            return 1 + (its_group == group)
        whole = SequenceMatcher(None, name, word).ratio()
        of_last = SequenceMatcher(None, last, its_last).ratio()
        if its_group == group:
            return of_last
        return whole if group else max(whole, of_last)

    best = max(known, key=similarity, default=None)
    return best if best is not None and similarity(best) >= SIMILAR else None
