"""Recognise a process by its id and start time.

The id is not enough, because the system reuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

SAME_START_SECONDS = 2.0
"""Most that readings of a start time differ.

The system computes it from an adjustable clock.
"""


def live_process(pid: int) -> psutil.Process | None:
    """Return the process with this id.

    Returns None if it has ended, even if its parent hasn't noticed yet.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, ValueError):  # ValueError: a damaged file may hold any number
        return None


def start_time(pid: int) -> float | None:
    """Return a process's start time.

    It is in seconds since the epoch. Returns None if it has ended.
    """
    process = live_process(pid)
    return None if process is None else process.create_time()


def started_at(process: psutil.Process, started: float) -> bool:
    """Return whether the process started at this time.

    `started` is in seconds since the epoch.
    """
    return abs(process.create_time() - started) < SAME_START_SECONDS
