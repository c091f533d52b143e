"""The signals by which a person or a system ends a command, put off while something is brought to its end."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but from a system, which answers no question."""


@contextmanager
def deferred() -> Iterator[None]:
    """Let the body end before Ctrl-C or SIGTERM is heard, so that what it starts is known and can be ended.

    In another thread than the main one, which hears no signal, nothing has to be put off.

    Raises:
        KeyboardInterrupt: after the body, if a signal came meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in (number for number in ENDING if before[number] is not signal.SIG_IGN):
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextmanager
def heard_once() -> Iterator[None]:
    """Hear the first Ctrl-C or SIGTERM in the body, and none after it until this process ends.

    What the first one begins to end is so brought to its end, however many come after it, and whenever.

    Raises:
        KeyboardInterrupt: at the first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {ending: signal.getsignal(ending) for ending in ENDING}
    is_heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal is_heard
        is_heard = True
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for number in (number for number in ENDING if before[number] is not signal.SIG_IGN):
        signal.signal(number, hear)
    try:
        yield
    finally:
        if not is_heard:
            for ending, handler in before.items():
                signal.signal(ending, handler)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in the body: a second one would leave half done what the first began."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
