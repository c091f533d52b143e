"""The connected worker processes of a data-parallel training.

A message is its kind in a byte, its length in eight bytes, and its content: raw numbers or JSON, never
pickle. `rendezvous` connects the workers. Then each sends the same kinds of messages in the same order.

The sum over all workers takes two rounds: each worker sends the others their parts of its arrays, adds what
it receives for its own part, and sends the result. Each worker sends less than twice the arrays' size,
however many workers there are, and the order of the additions is that of `pairwise`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

from mnist_cnn.errors import (
    ERRORS_BY_EXIT_CODE,
    BackendError,
    ConfigurationError,
    MnistCnnError,
    RunCancelled,
)
from mnist_cnn.training.distributed.pairwise import PairwiseSum, Subtree, subtrees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.training.distributed.pairwise import Arrays

CONTENT, ERROR = b"C", b"E"
HEADER = struct.Struct("!cQ")
MAX_ERROR_BYTES = 64 * 1024
ERROR_SECONDS = 3.0
"""Time limit for sending an error to other workers.

A worker that ends waits until the others have got its error.
"""


class WorkerLost(BackendError):  # noqa: N818 - it names what happened
    """Another worker, its node or the network has failed."""


class Group:
    """A training with one worker."""

    rank, count = 0, 1

    def part(self, total: int) -> range:
        """Return which of `total` things are this worker's."""
        return _part(self.rank, self.count, total)

    def all_reduce(self, held: PairwiseSum, shards: int) -> Arrays:  # noqa: ARG002 - it holds all of them
        """Return the sum of all workers' shards.

        `held` are the sums of this worker's, and are overwritten. Raises WorkerLost, or the error that has
        ended another worker. So do the other methods.
        """
        return held.total()

    def all_gather(self, content: bytes) -> list[bytes]:
        """Return the contents of all workers, in order."""
        return [content]

    def check_equal(self, what: str, value: str, hint: str) -> None:
        """Check that all workers have an equal value.

        Raises ConfigurationError on all of them.
        """
        values = [content.decode() for content in self.all_gather(value.encode())]
        for rank, other in enumerate(values):
            if other != values[0]:
                message = f"worker {rank} of {self.count} has another {what}: {other}, not {values[0]}"
                raise ConfigurationError(message, hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Do nothing."""


ONE_WORKER = Group()


class ConnectedGroup(Group):
    """One of several workers, connected with all others.

    Use it as a context, which closes the connections. If an error ends the context, the other workers get it,
    so that all of them end at once.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket], seconds: float) -> None:
        self.rank, self.count = rank, len(connections) + 1
        self.seconds = seconds
        self._connections = connections
        self._received: MnistCnnError | None = None  # the error that has ended another worker
        self._sending: dict[int, Future[None]] = {}
        self._senders = ThreadPoolExecutor(len(connections), thread_name_prefix="send")
        for connection in connections.values():
            connection.settimeout(seconds)

    def all_reduce(self, held: PairwiseSum, shards: int) -> Arrays:
        """Return all shards' sum, in the order of `pairwise`."""
        import numpy as np

        own = held.subtrees
        parts = self._exchange(
            {rank: [a for subtree in own for a in self._parts(subtree, rank)] for rank in self._connections}
        )
        ordered = PairwiseSum()
        kinds = [(array.dtype, len(array)) for array in self._parts(own[0], self.rank)]
        for rank in range(self.count):
            if rank == self.rank:
                found = [Subtree(s.first, s.length, self._parts(s, rank)) for s in own]
            else:
                found = _unpacked(parts[rank], subtrees(_part(rank, self.count, shards)), kinds)
            for subtree in found:
                ordered.add(subtree)
        mine = ordered.total()
        parts = self._exchange(dict.fromkeys(self._connections, mine))
        pieces = []
        for rank in range(self.count):
            kinds = [(array.dtype, len(array)) for array in self._parts(own[0], rank)]
            is_own = rank == self.rank
            pieces.append(mine if is_own else _unpacked(parts[rank], [Subtree(0, 1)], kinds)[0].arrays)
        return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))

    def _parts(self, subtree: Subtree, rank: int) -> Arrays:
        """Return a worker's part of each array."""
        cuts = (
            (len(array) * rank // self.count, len(array) * (rank + 1) // self.count)
            for array in subtree.arrays
        )
        return tuple(array[start:end] for array, (start, end) in zip(subtree.arrays, cuts, strict=True))

    def all_gather(self, content: bytes) -> list[bytes]:
        """Return the contents of all workers, in order."""
        received = self._exchange(dict.fromkeys(self._connections, (content,)))
        return [content if rank == self.rank else bytes(received[rank]) for rank in range(self.count)]

    def _exchange(self, contents: dict[int, Sequence[Any]]) -> dict[int, bytearray]:
        """Send each worker its buffers; return what each sent."""
        self._sending = {rank: self._senders.submit(self._send, rank, contents[rank]) for rank in contents}
        received = {rank: self._receive(rank) for rank in contents}
        for rank, future in self._sending.items():
            try:
                future.result()
            except WorkerLost:
                self._connections[rank].settimeout(1.0)
                self._receive(rank)  # it may have sent why
                raise
        return received

    def _send(self, rank: int, buffers: Sequence[Any]) -> None:
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        try:
            self._connections[rank].sendall(HEADER.pack(CONTENT, sum(view.nbytes for view in views)))
            for view in views:
                self._connections[rank].sendall(view)
        except OSError as error:
            raise self._lost(rank, error) from error

    def _receive(self, rank: int) -> bytearray:
        kind, length = HEADER.unpack(self._receive_bytes(rank, HEADER.size))
        if kind == ERROR:
            self._received = _error(json.loads(self._receive_bytes(rank, min(length, MAX_ERROR_BYTES))))
            raise self._received
        if kind != CONTENT:
            raise self._lost(rank, OSError("its message is not valid"))
        return self._receive_bytes(rank, length)

    def _receive_bytes(self, rank: int, length: int) -> bytearray:
        content = bytearray(length)
        view = memoryview(content)
        deadline = time.monotonic() + self.seconds
        while view:
            try:
                if time.monotonic() > deadline:
                    raise TimeoutError  # it sends too slowly
                count = self._connections[rank].recv_into(view)
            except OSError as error:
                raise self._lost(rank, error) from error
            if not count:
                raise self._lost(rank, None)
            view = view[count:]
        return content

    def _lost(self, rank: int, error: OSError | None) -> WorkerLost:
        if isinstance(error, TimeoutError):
            message = f"worker {rank} of {self.count} has not answered for {self.seconds:.0f} seconds"
        else:
            reason = f" ({error.strerror or error})" if error else ""
            message = f"worker {rank} of {self.count} is gone: it was killed, or its node has failed{reason}"
        return WorkerLost(message, "check whether the memory of its machine ran out")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close the connections, after sending an error to others."""
        if error is not None:
            self._send_error(error)
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # which also ends a thread that sends
            connection.close()
        self._senders.shutdown(wait=False, cancel_futures=True)

    def _send_error(self, error: BaseException) -> None:
        """Send the others the error that ends this worker.

        Waits until they have it, but not for long. A worker to which a message is half sent gets none: the
        connection ends in the middle of it.
        """
        if isinstance(error, KeyboardInterrupt):
            error = RunCancelled("the run was cancelled")
        if not isinstance(error, MnistCnnError):
            error = MnistCnnError(f"a bug: {type(error).__name__}")
        is_own = error is not self._received and not isinstance(error, RunCancelled | WorkerLost)
        message = f"worker {self.rank}: {error.message}" if is_own else error.message
        deadline = time.monotonic() + ERROR_SECONDS
        sent = wait(self._sending.values(), ERROR_SECONDS).done
        reachable = [
            connection
            for rank, connection in self._connections.items()
            if (sending := self._sending.get(rank)) is None or (sending in sent and not sending.exception())
        ]
        for connection in reachable:
            send_error(connection, error, message)
        for connection in reachable:
            with contextlib.suppress(OSError):
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                while connection.recv(1 << 20) and time.monotonic() < deadline:
                    pass


def send_error(connection: socket.socket, error: MnistCnnError, message: str) -> None:
    """Send another worker an error as the last message.

    Does nothing if the connection is lost.
    """
    fields = {"exit_code": error.exit_code, "message": message, "hint": error.hint}
    content = json.dumps({**fields, "is_lost": isinstance(error, WorkerLost)}).encode()
    with contextlib.suppress(OSError):
        connection.settimeout(ERROR_SECONDS)
        connection.sendall(HEADER.pack(ERROR, len(content)) + content)
        connection.shutdown(socket.SHUT_WR)


def _part(rank: int, count: int, total: int) -> range:
    return range(rank * total // count, (rank + 1) * total // count)


def _unpacked(content: bytearray, layout: list[Subtree], kinds: Sequence[tuple[Any, int]]) -> list[Subtree]:
    """Return a message's subtrees.

    `kinds` are the dtypes and lengths of the arrays of each.
    """
    import numpy as np

    found, offset = [], 0
    for subtree in layout:
        arrays = []
        for dtype, length in kinds:
            arrays.append(np.frombuffer(content, dtype, length, offset))
            offset += length * dtype.itemsize
        found.append(Subtree(subtree.first, subtree.length, tuple(arrays)))
    return found


def _error(content: dict[str, Any]) -> MnistCnnError:
    """Return the error that has ended another worker."""
    kind = ERRORS_BY_EXIT_CODE.get(content["exit_code"], MnistCnnError)
    return (WorkerLost if content["is_lost"] else kind)(content["message"], content["hint"])
