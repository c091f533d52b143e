"""Colours on a terminal, and output that may fail.

There may be no reader, a closed terminal, or a full disk.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


STDERR = 2


class LossyStream:
    """A stream that drops output after a failed write.

    It is redirected to /dev/null, and the failure is reported once on stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _redirect_on_failure(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _redirect_on_failure(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_coloured(stream: TextIO) -> bool:
    """Return whether to colour a stream's output.

    It must be a terminal whose user has not refused colours (https://no-color.org).
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return text in a rich style.

    For example "bold red". Returns plain text if the stream isn't coloured.
    """
    if not is_coloured(stream):
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def lossy(stream: TextIO) -> TextIO:
    """Return a stream that drops what it cannot write.

    Any other error still propagates.
    """
    return cast("TextIO", LossyStream(stream))


def is_debugging() -> bool:
    """Return whether to show tracebacks and libraries' output."""
    return os.environ.get("MNIST_CNN_DEBUG") == "1"


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop stderr's output unless MNIST_CNN_DEBUG=1.

    That includes output of compiled code.
    """
    if is_debugging():
        yield
        return
    sys.stderr.flush()
    with Path(os.devnull).open("wb") as devnull:
        kept = os.dup(STDERR)
        os.dup2(devnull.fileno(), STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, STDERR)
        os.close(kept)


@contextmanager
def _redirect_on_failure(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        redirect_to_devnull(stream)
        with suppress(OSError):
            reason = "its reader has gone" if isinstance(error, BrokenPipeError) else error.strerror
            sys.stderr.write(f"cannot write output: {reason}; the command continues without it\n")
            sys.stderr.flush()


def redirect_to_devnull(stream: TextIO) -> None:
    """Send all later output of a stream to /dev/null.

    Otherwise Python's exit would fail on it.
    """
    with Path(os.devnull).open("wb") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())
