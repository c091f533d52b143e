"""Workers exchange their sums, and end together."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, RunCancelled, TrainingError
from mnist_cnn.training.distributed.group import ONE_WORKER, ConnectedGroup, WorkerLost
from mnist_cnn.training.distributed.pairwise import PairwiseSum, Subtree

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 20.0


def connected(count: int, seconds: float = SECONDS) -> list[ConnectedGroup]:
    """Return the workers of a group, connected by pairs of sockets."""
    connections: list[dict[int, socket.socket]] = [{} for _ in range(count)]
    for one in range(count):
        for other in range(one):
            connections[one][other], connections[other][one] = socket.socketpair()
    return [ConnectedGroup(rank, connections[rank], seconds) for rank in range(count)]


def on_each(groups: list[ConnectedGroup], do: Callable[[ConnectedGroup], Any]) -> list[Any]:
    """Return what each worker returns, or the error that it raises."""

    def within(group: ConnectedGroup) -> Any:
        with group:
            return do(group)

    with ThreadPoolExecutor(len(groups)) as pool:
        futures = [pool.submit(within, group) for group in groups]
        return [future.exception() or future.result() for future in futures]


def held_by(group: ConnectedGroup | None, shards: int, length: int) -> PairwiseSum:
    held = PairwiseSum()
    for shard in (group or ONE_WORKER).part(shards):
        drawn = np.random.default_rng(shard)
        numbers = drawn.normal(size=length) * 10.0 ** drawn.integers(-6, 6, length)
        held.add(Subtree(shard, 1, (numbers.astype(np.float32), drawn.normal(size=3))))
    return held


@pytest.mark.parametrize("length", [1, 2, 1003])
@pytest.mark.parametrize("workers", [2, 3, 4, 6])
def test_all_workers_get_the_sum_of_one(workers: int, length: int) -> None:
    alone = ONE_WORKER.all_reduce(held_by(None, 12, length), 12)

    totals = on_each(connected(workers), lambda group: group.all_reduce(held_by(group, 12, length), 12))

    for total in totals:
        assert [array.tobytes() for array in total] == [array.tobytes() for array in alone]


def test_all_workers_get_what_each_has_sent() -> None:
    sent = [b"", b"one", b"two" * 1_000_000]

    assert on_each(connected(3), lambda group: group.all_gather(sent[group.rank])) == [sent, sent, sent]


def test_a_large_message_in_both_directions_blocks_nobody() -> None:
    size = 32 * 1024 * 1024  # more than a socket's buffers hold

    contents = on_each(connected(2), lambda group: group.all_gather(bytes([group.rank]) * size))

    assert [len(content) for content in contents[0]] == [size, size]


def test_different_values_end_all_workers() -> None:
    errors = on_each(connected(3), lambda group: group.check_equal("answer", str(group.rank // 2), "a hint"))

    assert {type(error) for error in errors} == {ConfigurationError}
    assert {error.message for error in errors} == {"worker 2 of 3 has another answer: 1, not 0"}


@pytest.mark.parametrize(
    "error", [TrainingError("the loss became nan", "lower it"), BackendError("full", "free some")]
)
def test_the_error_of_one_worker_ends_all(error: MnistCnnError) -> None:
    def work(group: ConnectedGroup) -> None:
        if group.rank == 1:
            raise error
        group.all_gather(b"")

    ends = on_each(connected(3), work)

    assert ends[1] is error
    for end in (ends[0], ends[2]):
        assert (type(end), end.message, end.hint) == (type(error), f"worker 1: {error.message}", error.hint)


def test_a_cancelled_worker_cancels_all() -> None:
    def work(group: ConnectedGroup) -> None:
        if group.rank == 0:
            raise KeyboardInterrupt
        group.all_gather(b"")

    first, second = connected(2)
    with pytest.raises(KeyboardInterrupt), first:
        work(first)
    with pytest.raises(RunCancelled, match="the run was cancelled"), second:
        work(second)


def test_a_bug_of_one_worker_is_a_bug_for_all() -> None:
    ends = on_each(connected(2), lambda group: 1 // 0 if group.rank == 1 else group.all_gather(b""))

    assert ends[0].exit_code == 1
    assert ends[0].message == "worker 1: a bug: ZeroDivisionError"


def test_a_killed_worker_is_lost_for_all() -> None:
    groups = connected(3)
    for connection in groups.pop()._connections.values():  # noqa: SLF001 - as the system does
        connection.close()

    ends = on_each(groups, lambda group: group.all_gather(b"x"))

    assert {type(end) for end in ends} == {WorkerLost}
    assert all("worker 2 of 3 is gone" in end.message for end in ends)


def test_a_worker_that_is_killed_in_the_middle_of_a_message_is_lost() -> None:
    group, killed = connected(2)
    connection = killed._connections[0]  # noqa: SLF001 - as above
    connection.sendall(b"C" + (1000).to_bytes(8) + b"only some")
    connection.close()

    with pytest.raises(WorkerLost, match="worker 1 of 2 is gone"), group:
        group.all_gather(b"")


def test_a_silent_worker_is_lost_after_the_stated_time() -> None:
    group, silent = connected(2, seconds=0.3)

    with pytest.raises(WorkerLost, match="has not answered for 0 seconds"), silent, group:
        group.all_gather(b"")


def test_a_worker_that_reads_nothing_is_lost_after_the_stated_time() -> None:
    group, stopped = connected(2, seconds=0.3)

    with pytest.raises(WorkerLost, match="has not answered"), stopped, group:
        group.all_gather(bytes(64 * 1024 * 1024))


def test_an_error_while_a_message_is_half_sent_is_not_taken_for_numbers() -> None:
    ending, late = connected(2, seconds=0.5)
    with pytest.raises(WorkerLost, match="has not answered"), ending:
        ending.all_gather(bytes(64 * 1024 * 1024))

    with pytest.raises(WorkerLost, match="worker 0 of 2 is gone"), late:
        late.all_gather(b"")


def test_a_message_of_an_unknown_kind_is_refused() -> None:
    group, strange = connected(2)
    strange._connections[0].sendall(b"X" + (1 << 62).to_bytes(8))  # noqa: SLF001 - no worker sends it

    with pytest.raises(WorkerLost, match="its message is not valid"), strange, group:
        group.all_gather(b"")
