"""Records a followed run in its trackers.

Each has a thread, which can't delay or end the run. The thread reads the run folder, so nothing piles up in
memory if a tracker is slow. What it could not write, it writes later: at its next attempt, or when the run is
followed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import Interrupted, MnistCnnError
from mnist_cnn.files import locks
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.terminal.output import lossy
from mnist_cnn.tracking import state as states
from mnist_cnn.tracking import tracker_class
from mnist_cnn.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.tracking.state import State

POLL_SECONDS = 0.25
RETRY_SECONDS = 30.0
END_SECONDS = 30.0
"""How long a command waits for a working tracker.

The tracker writes the rest after the run's end.
"""
BRIEF_SECONDS = 3.0
"""The same, for a failing tracker, or after Ctrl-C."""
LONGEST_REASON = 300

_reported: set[str] = set()
"""The trackers whose failure this process has reported."""


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Record a run while the body follows it.

    The run's trackers also get how it ended. Skips a tracker as long as another thread or process writes the
    run to it.
    """
    recordings = [Recording(run.folder, name) for name in states.chosen(run.folder)]
    for recording in recordings:
        recording.start()
    end, is_brief = None, False
    try:
        yield
        end = _end_of(run)
    except (KeyboardInterrupt, Interrupted):
        end, is_brief = _recorded_end(run.folder), True
        raise
    except BaseException:
        end = _end_of(run)
        raise
    finally:
        for recording in recordings:
            recording.stop(end)
        for recording in recordings:
            recording.wait(is_brief=is_brief)


def record_now(folder: Path, name: str) -> State:
    """Record an ended run in a tracker.

    Does so in this thread; returns where it is. Raises LockTimeout if another process does that for a minute,
    and whatever the tracker raises.
    """
    recording = Recording(folder, name)
    recording.stop(_recorded_end(folder))
    with states.lock(folder, name, locks.TIMEOUT_SECONDS):
        recording.write()
    return states.read(folder, name)


class Recording:
    """One run in one tracker, written by a thread."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._end: Status | None = None
        self._stopping = threading.Event()
        self._done = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"track={self._name}", daemon=True).start()

    def stop(self, end: Status | None) -> None:
        """Let the thread write what is left.

        It also writes how the run ended if it has.
        """
        self._end = end
        self._stopping.set()

    def wait(self, *, is_brief: bool) -> None:
        """Wait a limited time for the rest.

        Reports if it isn't written by then.
        """
        started = time.monotonic()
        brief_until = started + BRIEF_SECONDS if is_brief or self._name in _reported else None
        while not self._done.wait(POLL_SECONDS / 5):
            now = time.monotonic()
            if brief_until is None and self._name in _reported:  # it fails now
                brief_until = now + BRIEF_SECONDS
            if now > min(started + END_SECONDS, brief_until or math.inf):
                self._report(f"not everything was recorded within {now - started:.0f} seconds")
                return

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                while not self._takes_over(stack):
                    if self._stopping.is_set():
                        return  # another process writes the rest
                    self._stopping.wait(POLL_SECONDS)
                self._write_with_retries()
        finally:
            self._done.set()

    def _takes_over(self, stack: contextlib.ExitStack) -> bool:
        """Try to lock this tracker's state; return the success."""
        try:
            stack.enter_context(states.lock(self._folder, self._name))
        except locks.LockTimeout:
            return False
        except MnistCnnError as error:
            self._report(error.message)
            return False
        return True

    def _write_with_retries(self) -> None:
        while True:
            is_last = self._stopping.is_set()
            try:
                self.write()
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the run continues
                self._report(_reason(error))
            else:
                _reported.discard(self._name)
                return
            if is_last:
                return
            self._stopping.wait(RETRY_SECONDS)

    def write(self) -> None:
        """Write the run until it ends, or until `stop`.

        Raises whatever the tracker raises.
        """
        state = states.read(self._folder, self._name)
        if (end := _recorded_end(self._folder)) is not None and states.is_recorded(self._folder, state, end):
            return
        run = TrackedRun.of(self._folder)
        with contextlib.closing(tracker_class(self._name)(run, state)) as tracker:
            state = states.save(self._folder, self._name, tracker.start())
            self._write_epochs(run, tracker, state)

    def _write_epochs(self, run: TrackedRun, tracker: Tracker, state: State) -> None:
        seen: tuple[int, ...] | None = None
        while True:
            is_last = self._stopping.is_set()  # before the history is read, so that no epoch is missed
            before, seen = seen, run.history_version()
            if seen != before and (points := run.points(state.epochs)):
                tracker.write(points)
                state = dataclasses.replace(state, epochs=points[-1].epoch)
                states.save(self._folder, self._name, state)
            if is_last:
                break
            self._stopping.wait(POLL_SECONDS)
        if self._end is not None:
            result = run_folder.result_of(self._folder) if self._end is Status.completed else None
            tracker.end(self._end, result)
            states.save(self._folder, self._name, dataclasses.replace(state, status=self._end.value))

    def _report(self, reason: str) -> None:
        """Report a failure on stderr, once for each tracker."""
        if self._name in _reported:
            return
        _reported.add(self._name)
        later = command_line("follow", self._folder)
        line = f"warning: track={self._name}: {reason}; the run is not affected; record it later: {later}"
        print(redact(line), file=lossy(sys.stderr), flush=True)


def _reason(error: Exception) -> str:
    """Return why a tracker failed, on one line."""
    if isinstance(error, MnistCnnError):
        return f"{error.message}; {error.hint}"
    return textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST_REASON, placeholder=" ...")


def _recorded_end(folder: Path) -> Status | None:
    """Return the receipt's final status, or None."""
    with contextlib.suppress(MnistCnnError):
        status = run_folder.read_receipt(folder).status
        return status if status.is_final else None
    return None


def _end_of(run: Run) -> Status | None:
    """Return a run's final status, or None if unknown."""
    if (end := _recorded_end(run.folder)) is not None:
        return end
    with contextlib.suppress(MnistCnnError):  # of a service that does not answer
        status = run.status()
        return status if status.is_final else None
    return None
