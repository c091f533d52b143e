"""A reader makes bad files and lets the product read them.

The outcome is "accepted" or the name of a MnistCnnError. Anything else is a fault: another exception, a
message that isn't one line, or an array that the oracle reads differently.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from mnist_cnn import compose
from mnist_cnn.cli.main import main
from mnist_cnn.errors import ERRORS_BY_EXIT_CODE, MnistCnnError

Files = Mapping[str, bytes]
"""File names and contents."""

ACCEPTED = "accepted"
LONGEST_MESSAGE = 2_000


class Fault(Exception):  # noqa: N818 - what is looked for
    """A promise was broken."""


class Reader(abc.ABC):
    """One kind of file, made and read."""

    refusals: type[MnistCnnError] | tuple[()] = ()
    """The errors with which the product may refuse the files."""

    def __init__(self, _run: Path, folder: Path) -> None:
        """Prepare to read files in an empty folder; the first argument is a sound run's folder."""
        self.folder = folder

    @abc.abstractmethod
    def draw(self, random: Random) -> Files:
        """Make files, bad or not, that depend only on `random`."""

    @abc.abstractmethod
    def read(self, files: Files) -> str:
        """Let the product read them; return the outcome. Raises Fault, or what the product raises."""

    def outcome(self, files: Files) -> str:
        """Read files; return the outcome, also if the product refuses them."""
        try:
            return self.read(files)
        except self.refusals as error:
            return refused(error)


def refused(error: MnistCnnError) -> str:
    """Return an error's name. Raises Fault if it is a bug's, or its message isn't one line."""
    if type(error) is MnistCnnError:
        raise Fault(f"{type(error).__name__} is not an error of the package") from error
    if not error.message or "\n" in error.message or len(error.message) > LONGEST_MESSAGE:
        raise Fault(f"not a one-line message: {error.message[:200]!r}") from error
    return type(error).__name__


def answer(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def asked(*arguments: str) -> str:
    """Run a command in this process; return its outcome, which must be a documented one."""
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
    known = functools.cache(compose.compose)

    def cached(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
        return copy.deepcopy(known(tuple(overrides), tuple(config_dirs)))

    compose.compose = cached


def put(folder: Path, files: Files) -> None:
    """Write files into a folder, which is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # some file systems sync a file that is overwritten
        (folder / name).write_bytes(content)
