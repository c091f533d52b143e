"""Steps that do not depend on each other, made side by side. Knows neither the SDK nor the service."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_groups: contextvars.ContextVar[tuple[threading.Event, ...]] = contextvars.ContextVar("groups", default=())
"""For each group of steps that this thread works for, whether nobody waits for it any more."""


class Cancelled(BaseException):
    """Ends a step whose group was given up; nobody hears of it."""


def run_parallel(*acts: Callable[[], object]) -> list[Any]:
    """Do all of this at the same time; return what each returned, in their order, when all have ended.

    Each has a thread that does not keep the command from ending. Where the waiting is interrupted, as by
    Ctrl-C, none of them goes on: `stop_if_cancelled` ends it before its next step.

    Raises:
        Exception: the first one in the order of `acts`, whichever came first.
    """
    is_given_up = threading.Event()
    values: list[Any] = [None] * len(acts)
    errors: list[BaseException | None] = [None] * len(acts)

    def do(number: int) -> None:
        _groups.set((*_groups.get(), is_given_up))
        try:
            values[number] = acts[number]()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            errors[number] = error

    try:
        for thread in [in_this_context(do, number) for number in range(len(acts))]:
            thread.join()
    except BaseException:
        is_given_up.set()
        raise
    for error in errors:
        if error is not None:
            raise error
    return values


def in_this_context(act: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a daemon thread that works for whatever the calling one works for."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(act, *arguments), daemon=True)
    thread.start()
    return thread


def stop_if_cancelled() -> None:
    """End the calling step where its group was given up. Raises Cancelled."""
    if any(is_given_up.is_set() for is_given_up in _groups.get()):
        raise Cancelled
