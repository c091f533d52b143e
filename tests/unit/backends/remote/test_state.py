"""What follows from what a poll has found: a table, without a service and without a clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import outcome as azure
from mnist_cnn.backends.remote.service import Handle, Limits, Observation, ServiceError
from mnist_cnn.backends.remote.state import (
    LOG_SECONDS,
    OUTAGE_SECONDS,
    POLL_SECONDS,
    SLOW_POLL_SECONDS,
    UNKNOWN,
    Action,
    Download,
    Ending,
    GiveUp,
    Poll,
    RecordEnd,
    Report,
    State,
    Wait,
    advance,
    after_outage,
    seconds_in,
    wait_on,
)
from mnist_cnn.backends.slurm import queue as slurm
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled, RunPaused, TrainingError
from mnist_cnn.training.distributed.group import WorkerLost

FOLDER = Path("runs/one")
LIMITS = Limits(queue_seconds=100.0, run_seconds=1000.0, restarts=2)
RUNNING = Observation("R", Status.running)
COMPLETED = Observation("C", Status.completed)
CANCELLED = Observation("X", Status.cancelled, error="its time was up")
FAILED = Observation("F", Status.failed, error="the disk died")
SCRIPT_FAILED = dataclasses.replace(FAILED, has_trainer_failed=True)
LOST = Observation("L", Status.failed, error="the node died", is_lost=True)
EVICTED = dataclasses.replace(CANCELLED, is_lost=True)
"""As Azure reports the eviction of a single Spot node."""
OWN_ERROR = ConfigurationError("no such layer")
WORKER_LOST = WorkerLost("worker 1 of 2 is gone")
STOPPED = RunCancelled("stopped after epoch 3 of 12")
BY_USER = {"cancelled": "true"}
SPENT = {"retries": "2"}


def poll(seen: Observation | None, run_id: str = "one", place: dict[str, str] | None = None) -> Poll:
    return Poll(Handle(FOLDER, run_id, place or {}), seen)


def kinds(actions: tuple[Action, ...]) -> list[type]:
    return [type(action) for action in actions]


def recorded(actions: tuple[Action, ...]) -> tuple[Status, type, str]:
    (action,) = actions
    assert isinstance(action, RecordEnd)
    return action.status, type(action.error), action.error.message


@pytest.mark.parametrize(
    ("found", "status", "ending", "actions"),
    [
        (poll(RUNNING), Status.running, None, []),
        (poll(Observation("Q", Status.queued)), Status.queued, None, []),
        (poll(Observation("E", Status.finalizing)), Status.finalizing, None, []),
        (poll(None), Status.lost, None, []),
        (dataclasses.replace(poll(None), is_being_submitted=True), Status.preparing, None, []),
        (poll(COMPLETED), Status.finalizing, False, []),
        (poll(COMPLETED, place=BY_USER), Status.finalizing, False, []),
        (poll(CANCELLED), Status.cancelled, None, [RecordEnd]),
        (poll(FAILED), Status.finalizing, False, [Download]),
        (dataclasses.replace(poll(FAILED), failure=OWN_ERROR), Status.failed, None, [RecordEnd]),
        (dataclasses.replace(poll(LOST), failure=OWN_ERROR), Status.failed, None, [RecordEnd]),
        (poll(LOST), Status.queued, True, [Report]),
        (poll(LOST, place=BY_USER), Status.failed, None, [RecordEnd]),
        (poll(EVICTED), Status.queued, True, [Report]),
        (poll(EVICTED, place=BY_USER), Status.cancelled, None, [RecordEnd]),
        (poll(EVICTED, place=SPENT), Status.cancelled, None, [RecordEnd]),
        (poll(LOST, place=SPENT), Status.finalizing, False, [Download]),
        (dataclasses.replace(poll(COMPLETED), news=None), Status.finalizing, None, []),
        (dataclasses.replace(poll(FAILED), news=None), Status.finalizing, None, []),
    ],
    ids=[
        "running", "queued", "finalizing", "absent", "being-submitted", "completed",
        "completed-before-the-cancellation", "cancelled", "failed", "failed-with-an-error-in-the-log",
        "lost-with-an-error-in-the-log", "lost", "lost-and-cancelled",
        "evicted", "evicted-and-cancelled", "evicted-too-often", "lost-too-often",
        "completed-without-its-log", "failed-without-its-log",
    ],
)  # fmt: skip
def test_one_poll(found: Poll, status: Status, ending: bool | None, actions: list[type]) -> None:  # noqa: FBT001
    """`ending` says whether the run is to be started again, or None that it has not ended."""
    after, to_do = advance(State(), found, LIMITS, now=5.0)
    assert after.status is status
    assert (after.ending.starts_again if after.ending else None) is ending
    assert kinds(to_do) == actions
    assert after.answered_at == 5.0


@pytest.mark.parametrize(("name", "status"), [*azure.STATUSES.items(), *slurm.STATUSES.items()])
def test_each_state_of_each_service_is_followed(name: str, status: Status) -> None:
    """A state that is not final asks for another poll and for nothing else."""
    after, actions = advance(State(), poll(Observation(name, status)), LIMITS, now=0.0)
    assert after.name == name
    assert status.is_final == bool(actions or after.ending)


def test_the_error_of_a_cancelled_run_says_who_did_it() -> None:
    _, actions = advance(State(), poll(CANCELLED), LIMITS, now=0.0)
    assert recorded(actions) == (Status.cancelled, RunCancelled, "its time was up")
    _, actions = advance(State(), poll(CANCELLED, place=BY_USER), LIMITS, now=0.0)
    assert recorded(actions) == (Status.cancelled, RunCancelled, "the run was cancelled")
    _, actions = advance(State(), poll(LOST, place=BY_USER), LIMITS, now=0.0)
    assert recorded(actions) == (Status.cancelled, RunCancelled, "the run was cancelled")


def test_a_trainer_that_was_stopped_in_time_is_cancelled() -> None:
    _, actions = advance(State(), dataclasses.replace(poll(FAILED), failure=STOPPED), LIMITS, now=0.0)
    assert recorded(actions) == (Status.cancelled, RunCancelled, STOPPED.message)


@pytest.mark.parametrize("seen", [COMPLETED, FAILED, LOST])
def test_a_trainer_that_ended_at_its_pause_is_paused(seen: Observation) -> None:
    """Also if the service fails the job afterwards."""
    paused = dataclasses.replace(poll(seen), failure=RunPaused("paused after epoch 3 of 12"))
    _, actions = advance(State(), paused, LIMITS, now=0.0)
    assert recorded(actions) == (Status.paused, RunPaused, "paused after epoch 3 of 12")


def test_a_trainer_that_was_stopped_as_its_node_was_taken_goes_on() -> None:
    state, _ = advance(State(), dataclasses.replace(poll(LOST), failure=STOPPED), LIMITS, now=0.0)
    assert state.ending is not None
    assert state.ending.starts_again


@pytest.mark.parametrize(
    ("seen", "has_started", "expected"),
    [
        (FAILED, True, BackendError),
        (SCRIPT_FAILED, False, BackendError),
        (SCRIPT_FAILED, True, TrainingError),
    ],
)
def test_a_failure_of_the_trainer_counts_once_it_has_started(
    seen: Observation, expected: type, *, has_started: bool
) -> None:
    found = dataclasses.replace(poll(seen), has_started=has_started)
    after, _ = advance(State(), found, LIMITS, now=0.0)
    error = after.ending.error if after.ending else None
    assert error is not None
    assert type(error) is expected
    assert "resume runs/one" in error.hint


@pytest.mark.parametrize(
    ("seen", "starts_again", "said"),
    [
        (SCRIPT_FAILED, True, WORKER_LOST.message),
        (LOST, True, LOST.error),
        (FAILED, False, FAILED.error),
    ],
    ids=["seen-by-the-other-workers-only", "seen-by-the-service-too", "explained-by-the-service"],
)
def test_a_lost_worker_is_a_lost_node_unless_the_service_knows_better(
    seen: Observation, said: str, *, starts_again: bool
) -> None:
    """A worker may be killed because it needs too much memory, for example."""
    after, _ = advance(State(), dataclasses.replace(poll(seen), failure=WORKER_LOST), LIMITS, now=0.0)
    assert after.ending is not None
    assert after.ending.error is not None
    assert (after.ending.starts_again, after.ending.error.message) == (starts_again, said)


def test_the_log_of_an_ended_run_is_awaited_for_a_minute() -> None:
    found = dataclasses.replace(poll(FAILED), news=None)
    state, _ = advance(State(), found, LIMITS, now=7.0)
    state, actions = advance(state, found, LIMITS, now=7.0 + LOG_SECONDS - 1)
    assert not actions
    state, actions = advance(state, found, LIMITS, now=7.0 + LOG_SECONDS)
    assert kinds(actions) == [Download]


def test_a_lost_node_is_reported_once() -> None:
    state, first = advance(State(), poll(LOST), LIMITS, now=0.0)
    state, second = advance(state, poll(LOST), LIMITS, now=1.0)
    _, other = advance(state, poll(LOST, "two", {"retries": "1"}), LIMITS, now=2.0)
    assert (kinds(first), kinds(second), kinds(other)) == ([Report], [], [Report])


def test_a_run_that_its_service_starts_again_is_forgiven() -> None:
    """Slurm requeues a run whose node died: it is queued again, and nothing of its end remains."""
    state, _ = advance(State(), poll(LOST), LIMITS, now=0.0)
    state, actions = advance(state, poll(Observation("Q", Status.queued)), LIMITS, now=1.0)
    assert (state.status, state.ending, state.ended_at, actions) == (Status.queued, None, None, ())


def test_nothing_is_kept_of_a_run_that_was_superseded() -> None:
    """Another follower has started it again, and the receipt names the new run."""
    state, _ = advance(State(), poll(COMPLETED), LIMITS, now=0.0)
    state, actions = advance(state, poll(RUNNING, "two"), LIMITS, now=1.0)
    assert (state.id, state.status, state.ending, actions) == ("two", Status.running, None, ())
    assert state.pause == POLL_SECONDS


def test_a_cancellation_that_crosses_a_submission_is_not_lost() -> None:
    """The mark is in the receipt before the service knows the run."""
    waiting = dataclasses.replace(poll(None, place=BY_USER), is_being_submitted=True)
    state, _ = advance(State(), waiting, LIMITS, now=0.0)
    assert (state.name, state.status) == (UNKNOWN, Status.preparing)
    state, _ = advance(state, poll(RUNNING, place=BY_USER), LIMITS, now=1.0)
    assert (state.name, state.status) == ("R", Status.running)


def test_pauses_grow_while_nothing_changes() -> None:
    state, now, pauses = State(), 0.0, []
    for _ in range(30):
        state, _ = advance(state, poll(RUNNING), LIMITS, now)
        pauses.append(state.poll_at - now)
        now = state.poll_at
    assert pauses[0] == POLL_SECONDS
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == SLOW_POLL_SECONDS
    for news in (dataclasses.replace(poll(RUNNING), news=True), poll(Observation("Q", Status.queued))):
        after, _ = advance(state, news, LIMITS, now)
        assert after.pause == POLL_SECONDS


def test_an_outage_keeps_the_last_state_for_a_while() -> None:
    state, _ = advance(State(), poll(RUNNING), LIMITS, now=0.0)
    error = ServiceError("no answer")
    after, actions = after_outage(state, error, now=OUTAGE_SECONDS)
    assert kinds(actions) == [Report]
    assert (after.status, after.answered_at) == (Status.running, 0.0)
    assert after.poll_at == OUTAGE_SECONDS + 2 * POLL_SECONDS
    _, actions = after_outage(after, error, now=OUTAGE_SECONDS + 1)
    assert actions == (GiveUp(error),)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_no_outage(status: int) -> None:
    state, _ = advance(State(), poll(RUNNING), LIMITS, now=0.0)
    error = ServiceError("refused", status=status)
    assert after_outage(state, error, now=1.0) == (state, (GiveUp(error),))


def test_a_first_poll_without_an_answer_is_an_error() -> None:
    error = ServiceError("no answer")
    assert after_outage(State(), error, now=1.0)[1] == (GiveUp(error),)


def test_a_clock_that_jumps_asks_again_and_ends_nothing() -> None:
    """As after a suspended laptop wakes: the run is asked, and its answer counts."""
    state, _ = advance(State(), poll(RUNNING), LIMITS, now=0.0)
    assert state.poll_at < 1e6
    state, actions = advance(state, poll(RUNNING), LIMITS, now=1e6)
    assert (state.status, state.answered_at, actions) == (Status.running, 1e6, ())


def test_preparing_waiting_and_running_have_limits_of_their_own() -> None:
    limits = dataclasses.replace(LIMITS, prepare_seconds=500.0, preparing="the image is being built")
    prepared = wait_on(None, Status.preparing, limits, FOLDER, 0.0)
    assert wait_on(prepared, Status.preparing, limits, FOLDER, 500.0) == prepared
    with pytest.raises(BackendError, match="after 500 seconds: the image is being built") as raised:
        wait_on(prepared, Status.preparing, limits, FOLDER, 500.1)
    assert "node" not in raised.value.message
    wait = wait_on(prepared, Status.queued, limits, FOLDER, 600.0)
    with pytest.raises(BackendError, match="still queued after 100 seconds: no node is free") as raised:
        wait_on(wait, Status.queued, limits, FOLDER, 700.1)
    assert "follow runs/one" in raised.value.hint
    runs = wait_on(wait, Status.running, limits, FOLDER, 700.1)
    assert runs == Wait(Status.running, since=700.1)
    assert wait_on(runs, Status.finalizing, limits, FOLDER, 1700.1) == runs
    with pytest.raises(BackendError, match="not ended after 1000 seconds"):
        wait_on(runs, Status.running, limits, FOLDER, 1700.2)
    assert wait_on(runs, Status.queued, limits, FOLDER, 2000.0) == Wait(Status.queued, since=2000.0)


def test_a_queue_timeout_above_the_time_to_prepare_counts_there_too() -> None:
    limits = dataclasses.replace(LIMITS, queue_seconds=900.0, prepare_seconds=500.0)
    assert [seconds_in(status, limits) for status in (Status.preparing, Status.queued)] == [900.0, 900.0]


def test_an_ending_without_an_error_is_a_result() -> None:
    state, _ = advance(State(), poll(COMPLETED), LIMITS, now=0.0)
    assert state.ending == Ending()
