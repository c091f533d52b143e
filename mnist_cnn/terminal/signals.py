"""Context managers for Ctrl-C and SIGTERM: defer them, take only the first one, or ignore them."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM. Unlike Ctrl-C, it comes from a system, which answers no question."""


@contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM only after the body, so that what it starts is known and can be stopped.

    Does nothing in any thread but the main one, because only that one receives signals.

    Raises:
        KeyboardInterrupt: after the body, if a signal arrived during it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = _handlers()
    _set_unless_ignored(before, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        _restore(before)
    if received:
        signal.raise_signal(received[0])


@contextmanager
def first_signal_only() -> Iterator[None]:
    """Raise at the first Ctrl-C or SIGTERM in the body; ignore all later ones until the process exits.

    Later signals cannot interrupt the clean-up that the first one started.

    Raises:
        KeyboardInterrupt: at the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()
    is_received = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal is_received
        is_received = True
        _restore(dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN))
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    _set_unless_ignored(before, receive)
    try:
        yield
    finally:
        if not is_received:
            _restore(before)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in the body, because a second one would leave the clean-up half done."""
    before = _handlers()
    _restore(dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN))
    try:
        yield
    finally:
        _restore(before)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def _set_unless_ignored(before: dict[int, Any], handler: Any) -> None:
    for number in STOP_SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
