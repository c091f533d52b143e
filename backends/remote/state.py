"""The state of a run on a cluster.

Pure: no request, no file, no clock. `advance` takes what a poll has found, and returns the next state and
what to do about it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.failures import follow_hint, resume_hint
from mnist_cnn.backends.remote.service import NOT_FOUND, Handle, Limits, Observation, ServiceError
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, RunPaused, TrainingError
from mnist_cnn.training.distributed.group import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

POLL_SECONDS, SLOW_POLL_SECONDS, POLL_GROWTH = 0.5, 10.0, 1.25
"""First and longest pause between polls.

It grows while nothing changes.
"""
OUTAGE_SECONDS = 600.0
"""How long a followed run survives an outage."""
LOG_SECONDS = 60.0
"""How long an ended run's log may be refused."""
UNKNOWN = "not known to the service"
RESTARTS, CANCELLED = "retries", "cancelled"
"""Keys of the receipt's `service`.

They say how often the run was started again after its node was lost, and that a user has cancelled it.
"""
REFUSALS = (400, 401, NOT_FOUND)
"""Answers that another request will not change."""


NOTHING_SEEN = Observation("", Status.queued)


@dataclasses.dataclass(frozen=True)
class Report:
    """Report a line."""

    line: str


@dataclasses.dataclass(frozen=True)
class Download:
    """Download the result now, and record the run's end."""


@dataclasses.dataclass(frozen=True)
class RecordEnd:
    """Record that the run has ended."""

    status: Status
    error: MnistCnnError


@dataclasses.dataclass(frozen=True)
class GiveUp:
    """Raise an error; how the run is remains unknown."""

    error: MnistCnnError


Action = Report | Download | RecordEnd | GiveUp


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a run's end requires: its result, or resubmission.

    `error` is why the service ended it.
    """

    error: MnistCnnError | None = None
    starts_again: bool = False


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of the run `id`.

    Times are in seconds of a monotonic clock. The service is asked again at `poll_at`, a `pause` after the
    last time, about what was last `seen`.
    """

    id: str = ""
    seen: Observation = NOTHING_SEEN
    status: Status = Status.queued
    pause: float = POLL_SECONDS
    poll_at: float = 0.0
    answered_at: float | None = None
    ended_at: float | None = None
    ending: Ending | None = None

    @property
    def name(self) -> str:
        """Return the service's name of the state."""
        return self.seen.state


@dataclasses.dataclass(frozen=True)
class Poll:
    """What a poll has found.

    `news` says whether the log has grown; None that it can't be read now. The log also says whether training
    `has_started`, and has the trainer's own error, `failure`.
    """

    handle: Handle
    observation: Observation | None
    news: bool | None = False
    is_being_submitted: bool = False
    has_started: bool = False
    failure: MnistCnnError | None = None


def advance(state: State, poll: Poll, limits: Limits, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the next state, and what to do."""
    if state.id not in ("", poll.handle.id):  # what was learned about one run is never used for another
        state = State(answered_at=state.answered_at)
    seen = poll.observation
    if seen is None:
        status = Status.preparing if poll.is_being_submitted else Status.lost
        seen = Observation(UNKNOWN, status)
        poll_at = now + state.pause
        return dataclasses.replace(
            state, seen=seen, status=status, poll_at=poll_at, answered_at=now, ending=None
        ), ()
    is_unchanged = seen.state == state.name and not poll.news
    pause = min(SLOW_POLL_SECONDS, POLL_GROWTH * state.pause) if is_unchanged else POLL_SECONDS
    before, state = (
        state,
        dataclasses.replace(
            state,
            id=poll.handle.id,
            seen=seen,
            status=seen.status,
            pause=pause,
            poll_at=now + pause,
            answered_at=now,
            ended_at=(now if state.ended_at is None else state.ended_at) if seen.status.is_final else None,
            ending=None,
        ),
    )
    if not seen.status.is_final:
        return state, ()
    if poll.news is None and now - (state.ended_at or now) < LOG_SECONDS:
        return dataclasses.replace(state, status=Status.finalizing), ()
    return _end(before, state, poll, limits)


def _end(before: State, state: State, poll: Poll, limits: Limits) -> tuple[State, tuple[Action, ...]]:
    """Return an ended run's state, and what to do."""
    seen, place, folder = poll.observation, poll.handle.place, poll.handle.folder
    assert seen is not None  # noqa: S101 - for mypy; `advance` has checked it
    if seen.status is not Status.cancelled and isinstance(poll.failure, RunPaused):
        return state, (RecordEnd(Status.paused, RunPaused(poll.failure.message, resume_hint(folder))),)
    if seen.status is Status.completed:
        return dataclasses.replace(state, status=Status.finalizing, ending=Ending()), ()
    is_ours = CANCELLED in place
    failure: MnistCnnError | None = poll.failure
    if isinstance(failure, WorkerLost):  # what the other workers have seen; the service may know better
        if seen.has_trainer_failed:
            seen = dataclasses.replace(seen, error=failure.message, has_trainer_failed=False, is_lost=True)
        failure = None
    is_stopped = isinstance(failure, RunCancelled)  # in time, because its node was to be taken away
    if seen.status is Status.failed and failure is not None and not (is_stopped and seen.is_lost):
        return state, (RecordEnd(Status.cancelled if is_stopped else Status.failed, failure),)
    if seen.status is Status.cancelled or (seen.is_lost and is_ours):
        reason = "the run was cancelled" if is_ours or not seen.error else seen.error
        failure = RunCancelled(reason, resume_hint(folder))
    else:
        kind = TrainingError if seen.has_trainer_failed and poll.has_started else BackendError
        failure = kind(seen.error or "the run failed", resume_hint(folder))
    if seen.is_lost and not is_ours and restarts(place) < limits.restarts:
        return _starting_again(before, state, failure)
    if isinstance(failure, RunCancelled):
        return state, (RecordEnd(Status.cancelled, failure),)
    # The service also fails a run whose training succeeded, for example if it can't store the last metrics.
    state = dataclasses.replace(state, status=Status.finalizing, ending=Ending(failure))
    return state, (Download(),)


def _starting_again(before: State, state: State, error: MnistCnnError) -> tuple[State, tuple[Action, ...]]:
    """Return the state before a resubmission; report it once."""
    is_reported = before.id == state.id and before.ending is not None
    report = () if is_reported else (Report(f"{error.message}; follow submits the run again"),)
    return dataclasses.replace(state, status=Status.queued, ending=Ending(error, starts_again=True)), report


def after_outage(state: State, error: ServiceError, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the next state after a failed request.

    That is the last state, for up to OUTAGE_SECONDS.
    """
    waited = None if state.answered_at is None else now - state.answered_at
    if error.status in REFUSALS or waited is None or waited > OUTAGE_SECONDS:
        return state, (GiveUp(error),)
    left = OUTAGE_SECONDS - waited
    line = f"{error.message}; the run is still running; retrying for up to {left:.0f} seconds"
    pause = min(SLOW_POLL_SECONDS, 2 * state.pause)
    return dataclasses.replace(state, pause=pause, poll_at=now + pause), (Report(line),)


def restarts(place: Mapping[str, str]) -> int:
    """Return how often a run was started again.

    Counts since a user started or resumed it.
    """
    return int(place.get(RESTARTS, "0"))


@dataclasses.dataclass(frozen=True)
class Wait:
    """Since when a followed run has a status.

    That is `preparing`, `queued` (waits for a node) or `running`.
    """

    status: Status
    since: float


def wait_on(wait: Wait | None, status: Status, limits: Limits, folder: Path, now: float) -> Wait:
    """Return since when a run waits.

    Raises BackendError if it has waited or been running for too long.
    """
    status = status if status in (Status.preparing, Status.queued) else Status.running
    if wait is None or wait.status is not status:
        return Wait(status, now)
    limit = seconds_in(status, limits)
    if now - wait.since <= limit:
        return wait
    message = {
        Status.preparing: f"the run is still preparing after {limit:.0f} seconds: {limits.preparing}",
        Status.queued: f"the run is still queued after {limit:.0f} seconds: no node is free; "
        "it stays in the queue",
        Status.running: f"the run has not ended after {limit:.0f} seconds",
    }
    raise BackendError(message[status], follow_hint(folder))


def seconds_in(status: Status, limits: Limits) -> float:
    """Return a status's time limit in seconds.

    A followed run may be preparing, queued or running.
    """
    if status is Status.preparing:
        return max(limits.prepare_seconds, limits.queue_seconds)
    return limits.queue_seconds if status is Status.queued else limits.run_seconds
