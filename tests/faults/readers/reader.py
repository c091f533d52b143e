"""What a reader is, and what counts as a worded end.

A reader takes files to their end, which is "accepted" or the name of a worded error. Anything else is a
fault: another exception, words that are no message, an array that the oracle does not read so.
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
"""What is read: the names of files and their contents."""

ACCEPTED = "accepted"
LONGEST_MESSAGE = 2_000


class Fault(Exception):  # noqa: N818 - what is looked for
    """A promise was broken."""


class Reader(Protocol):
    """One kind of file, made and read."""

    def draw(self, random: Random) -> Files:
        """Make files, bad or not, that depend on nothing but `random`."""

    def look(self, files: Files) -> str:
        """Have the product read them; return how that ended. Raises Fault, or whatever the product raises."""


def refused(error: Exception) -> str:
    """Return the name of a worded error. Raises Fault where it is none, or is no line of words."""
    from mnist_cnn.errors import MnistCnnError

    if not isinstance(error, MnistCnnError) or type(error) is MnistCnnError:
        raise Fault(f"{type(error).__name__} is no worded error") from error
    if not error.message or "\n" in error.message or len(error.message) > LONGEST_MESSAGE:
        raise Fault(f"no line of words: {error.message[:200]!r}") from error
    return type(error).__name__


def answer(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it said."""
    from mnist_cnn.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def asked(*arguments: str) -> str:
    """Run the command in this process, where it must end as documented; return how."""
    from mnist_cnn.errors import ERRORS_BY_EXIT_CODE

    code, _, said = answer(*arguments)
    if "Traceback" in said or (code > 1 and code not in ERRORS_BY_EXIT_CODE):
        raise Fault(f"{' '.join(arguments)} exits {code}: {said[-3000:]}")
    if code and any(len(line) > LONGEST_MESSAGE for line in said.splitlines()):
        raise Fault(f"{' '.join(arguments)}: a line of {max(map(len, said.splitlines()))} characters")
    if code == 1:  # a bug would have its traceback
        return "a bug of a run, told again"
    return ERRORS_BY_EXIT_CODE[code].__name__ if code else ACCEPTED


def compose_once() -> None:
    """Have the same overrides composed once: it takes long, and reads none of these files."""
    from mnist_cnn import compose

    real, known = compose.compose, {}

    def remembered(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
        asked_for = (*overrides, "", *config_dirs)
        if asked_for not in known:
            known[asked_for] = real(overrides, config_dirs)
        return copy.deepcopy(known[asked_for])

    compose.compose = remembered


def put(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # some file systems sync a file that is overwritten
        (folder / name).write_bytes(content)


def put_run(folder: Path, files: Files) -> None:
    """Write files into a folder that need not be there."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder, files)
