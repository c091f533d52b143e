"""A reader makes bad files and lets the product read them.

The outcome is "accepted" or the name of a MnistCnnError. Anything else is a fault: another exception, a
message that isn't one line, or an array that the oracle reads differently.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

Files = Mapping[str, bytes]
"""File names and contents."""

ACCEPTED = "accepted"
LONGEST_MESSAGE = 2_000


class Fault(Exception):  # noqa: N818 - what is looked for
    """A promise was broken."""


class Reader(Protocol):
    """One kind of file, made and read."""

    def draw(self, random: Random) -> Files:
        """Make files, bad or not, that depend only on `random`."""

    def look(self, files: Files) -> str:
        """Let the product read them; return the outcome. Raises Fault, or what the product raises."""


def refused(error: Exception) -> str:
    """Return an error's name. Raises Fault if it isn't a MnistCnnError with a one-line message."""
    from mnist_cnn.errors import MnistCnnError

    if not isinstance(error, MnistCnnError) or type(error) is MnistCnnError:
        raise Fault(f"{type(error).__name__} is not an error of the package") from error
    if not error.message or "\n" in error.message or len(error.message) > LONGEST_MESSAGE:
        raise Fault(f"not a one-line message: {error.message[:200]!r}") from error
    return type(error).__name__


def answer(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    from mnist_cnn.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def asked(*arguments: str) -> str:
    """Run a command in this process; return its outcome, which must be a documented one."""
    from mnist_cnn.errors import ERRORS_BY_EXIT_CODE

    code, _, said = answer(*arguments)
    if "Traceback" in said or (code > 1 and code not in ERRORS_BY_EXIT_CODE):
        raise Fault(f"{' '.join(arguments)} exits {code}: {said[-3000:]}")
    if code and any(len(line) > LONGEST_MESSAGE for line in said.splitlines()):
        raise Fault(f"{' '.join(arguments)}: a line of {max(map(len, said.splitlines()))} characters")
    if code == 1:  # a bug would have its traceback
        return "a bug of the run, reported again"
    return ERRORS_BY_EXIT_CODE[code].__name__ if code else ACCEPTED


def compose_once() -> None:
    """Cache composed overrides, because composing is slow and reads none of these files."""
    from mnist_cnn import compose

    real, known = compose.compose, {}

    def cached(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
        asked_for = (*overrides, "", *config_dirs)
        if asked_for not in known:
            known[asked_for] = real(overrides, config_dirs)
        return copy.deepcopy(known[asked_for])

    compose.compose = cached


def put(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # some file systems sync a file that is overwritten
        (folder / name).write_bytes(content)


def put_run(folder: Path, files: Files) -> None:
    """Create a folder and write files into it."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder, files)
