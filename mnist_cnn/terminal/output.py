"""Output that cannot be written: nobody reads it any more, its terminal is gone, or its disk is full."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


class Dispensable:
    """A stream for a person to read: what is written is lost where it cannot be, and all that comes after it.

    It is said on stderr, where that can be written: what goes on meanwhile goes on, but unseen.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as far as anything can be written."""
        with _dispensable(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as far as anything can be written."""
        with _dispensable(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def dispensable(stream: TextIO) -> TextIO:
    """Return a stream that loses what it cannot write; errors of anything else that happens are heard."""
    return cast("TextIO", Dispensable(stream))


@contextmanager
def _dispensable(stream: TextIO) -> Iterator[None]:
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
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
