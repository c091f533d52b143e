"""What hints suggest: commands, and corrected words."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


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


def did_you_mean(name: str, known: Collection[str], otherwise: str, group: str = "") -> str:
    """Return a hint with the nearest `known` word.

    Returns `otherwise` if none is near. Words of a `group` are compared without its name, and shown with it.
    """
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.6)
    prefix = f"{group}." if group else ""
    return f"did you mean {prefix}{near[0]}?" if near else otherwise
