"""Context managers that defer, limit or ignore stop signals."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception.

    Unlike Ctrl-C, it comes from a system, which answers no question.
    """


@contextmanager
def defer_signals(notice: str = "") -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM only after the body.

    So what it starts is known and can be stopped. The first signal writes `notice` on stderr at once.
    """
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if notice and len(received) == 1:
            with suppress(OSError):  # not `print`, which the signal may have interrupted
                os.write(STDERR, f"\n{notice}\n".encode())

    with _handled_by(receive, _handlers()):
        yield
    if received:
        signal.raise_signal(received[0])


@contextmanager
def first_signal_only() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C or SIGTERM.

    Ignores later ones until the exit, so that they cannot interrupt the clean-up that the first one started.
    """
    restored = _handlers()

    def receive(number: int, frame: FrameType | None) -> None:
        handler = restored[number]
        for stop_signal in STOP_SIGNALS:
            restored[stop_signal] = signal.SIG_IGN
            signal.signal(stop_signal, signal.SIG_IGN)
        if callable(handler):
            handler(number, frame)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    with _handled_by(receive, restored):
        yield


def ignore_signals() -> AbstractContextManager[None]:
    """Ignore Ctrl-C and SIGTERM in the body.

    A second one would leave the clean-up half done.
    """
    return _handled_by(signal.SIG_IGN, _handlers())


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


@contextmanager
def _handled_by(handler: Any, restored: dict[int, Any]) -> Iterator[None]:
    """Set a handler while the body runs.

    Afterwards sets the `restored` ones. Skips signals that are ignored. Does nothing in any thread but the
    main one, because only that one receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for stop_signal in STOP_SIGNALS:
        if restored[stop_signal] is not signal.SIG_IGN:
            signal.signal(stop_signal, handler)
    try:
        yield
    finally:
        for number, before in restored.items():
            signal.signal(number, before)
