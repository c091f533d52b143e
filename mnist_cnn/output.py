"""Output that cannot be written: nobody reads it any more, its terminal is gone, or its disk is full."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def dispensable(stream: TextIO) -> Iterator[None]:
    """Let what the body prints be lost where it cannot be written, and what comes after it on the stream.

    It is said on stderr, where that can be written: what goes on meanwhile goes on, but unseen.
    """
    try:
        yield
    except OSError as error:
        write_no_more(stream)
        with suppress(OSError):
            reason = "nobody reads it" if isinstance(error, BrokenPipeError) else error.strerror
            sys.stderr.write(f"the output ends here: {reason}; the command goes on\n")
            sys.stderr.flush()


def write_no_more(stream: TextIO) -> None:
    """Let all that is still written to a stream go nowhere, so that Python's end does not stumble over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
