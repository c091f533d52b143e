"""Has the product read a damaged file, and classifies what happens.

The result is "accepted" or the class of the product's error. Anything else is a fault: another exception, an
error without a proper message, an array that differs from the oracle's.
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
"""The names and contents of files."""

ACCEPTED = "accepted"
LONGEST_MESSAGE = 2_000


class Fault(Exception):  # noqa: N818 - a finding, not an error here
    """A promise was broken."""


class Reader(Protocol):
    """One kind of file, made and read."""

    def draw(self, random: Random) -> Files:
        """Make files, damaged or not, that depend only on `random`."""

    def look(self, files: Files) -> str:
        """Have the product read the files; return the result. Raises Fault, or what the product raises."""


def refused(error: Exception) -> str:
    """Return an error's class. Raises Fault if it is not the product's, or its message is not one line."""
    from mnist_cnn.errors import MnistCnnError

    if not isinstance(error, MnistCnnError) or type(error) is MnistCnnError:
        raise Fault(f"{type(error).__name__} is not an error of the product") from error
    if not error.message or "\n" in error.message or len(error.message) > LONGEST_MESSAGE:
        raise Fault(f"the message is not one line: {error.message[:200]!r}") from error
    return type(error).__name__


def answer(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, stdout and stderr."""
    from mnist_cnn.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def asked(*arguments: str) -> str:
    """Run the command in this process; return the result, which must be a documented one."""
    from mnist_cnn.errors import ERRORS_BY_EXIT_CODE

    code, _, err = answer(*arguments)
    if "Traceback" in err or (code > 1 and code not in ERRORS_BY_EXIT_CODE):
        raise Fault(f"{' '.join(arguments)} exits {code}: {err[-3000:]}")
    if code and any(len(line) > LONGEST_MESSAGE for line in err.splitlines()):
        raise Fault(f"{' '.join(arguments)}: a line of {max(map(len, err.splitlines()))} characters")
    if code == 1:  # a bug of this command would have a traceback
        return "a recorded bug of a run"
    return ERRORS_BY_EXIT_CODE[code].__name__ if code else ACCEPTED


def compose_once() -> None:
    """Cache composed overrides: composing is slow, and reads none of these files."""
    from mnist_cnn import compose

    real, cached = compose.compose, {}

    def compose_cached(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
        key = (*overrides, "", *config_dirs)
        if key not in cached:
            cached[key] = real(overrides, config_dirs)
        return copy.deepcopy(cached[key])

    compose.compose = compose_cached


def put(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # some file systems sync an overwritten file
        (folder / name).write_bytes(content)


def put_run(folder: Path, files: Files) -> None:
    """Write files into a folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder, files)
