"""Runs independent steps in parallel. Knows neither the SDK nor the service."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_groups: contextvars.ContextVar[tuple[threading.Event, ...]] = contextvars.ContextVar("groups", default=())
"""The groups of steps that this thread belongs to; an event is set if its group was cancelled."""


class Cancelled(BaseException):
    """Ends a step of a cancelled group; never reported."""


def run_parallel(*steps: Callable[[], object]) -> list[Any]:
    """Run all steps at the same time; return their values, in order, when all have ended.

    Each runs in a daemon thread. If the wait is interrupted, as by Ctrl-C, the group is cancelled: a step
    that is still running ends at its next `stop_if_cancelled`.

    Raises:
        Exception: the error of the first step, in argument order, that failed.
    """
    cancelled = threading.Event()
    values: list[Any] = [None] * len(steps)
    errors: list[BaseException | None] = [None] * len(steps)

    def run(number: int) -> None:
        _groups.set((*_groups.get(), cancelled))
        try:
            values[number] = steps[number]()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            errors[number] = error

    try:
        for thread in [start_thread(run, number) for number in range(len(steps))]:
            thread.join()
    except BaseException:
        cancelled.set()
        raise
    for error in errors:
        if error is not None:
            raise error
    return values


def start_thread(act: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a daemon thread that belongs to the same groups as the calling one."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(act, *arguments), daemon=True)
    thread.start()
    return thread


def stop_if_cancelled() -> None:
    """End the calling step if its group was cancelled. Raises Cancelled."""
    if any(cancelled.is_set() for cancelled in _groups.get()):
        raise Cancelled
