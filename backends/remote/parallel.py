"""Runs independent steps in parallel.

Knows neither the SDK nor the service.
"""

from __future__ import annotations

import contextvars
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_groups: contextvars.ContextVar[tuple[threading.Event, ...]] = contextvars.ContextVar("groups", default=())
"""The groups of steps that this thread belongs to.

An event is set if its group was cancelled.
"""


class Cancelled(BaseException):
    """Ends a step of a cancelled group; never reported."""


def run_parallel(*steps: Callable[[], object]) -> list[Any]:
    """Run steps in parallel; return their values in order.

    If the wait is interrupted, as by Ctrl-C, the group is cancelled: a step that is still running ends at its
    next `stop_if_cancelled`. Otherwise all steps end first; then the error of the first failed one, in
    argument order, is raised.
    """
    cancelled = threading.Event()
    context = contextvars.copy_context()
    context.run(_groups.set, (*_groups.get(), cancelled))
    try:
        started = [context.run(start_thread, step) for step in steps]
        futures.wait(started)
    except BaseException:
        cancelled.set()
        raise
    return [future.result() for future in started]


def start_thread(act: Callable[[], T], *, daemon: bool = True) -> futures.Future[T]:
    """Start a thread; return its future value.

    The thread belongs to the groups of the calling one.
    """
    context = contextvars.copy_context()
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(context.run(act))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=daemon).start()
    return future


def stop_if_cancelled() -> None:
    """Raise Cancelled if the calling step's group was cancelled."""
    if any(cancelled.is_set() for cancelled in _groups.get()):
        raise Cancelled
