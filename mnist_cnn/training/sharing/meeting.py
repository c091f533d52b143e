"""How the workers of a run find and check each other.

Worker 0 listens; the others connect to it, then to each other. All prove that they know the run's token, see
`handshake`. What follows is not encrypted, as in MPI or gloo: the workers' network must be trusted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.training.sharing import handshake
from mnist_cnn.training.sharing.group import Group, WorkerLost, send_error
from mnist_cnn.training.sharing.handshake import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_cnn.training.sharing.handshake import Line

RETRY_SECONDS = 0.2
WAIT_SECONDS = 1.0
"""How often `on_wait` is called."""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Where the workers of a run meet: worker 0 listens at `host`, at the first free one of `ports`.

    A worker that does not arrive within `arrival_seconds` ends the run. So does one that sends nothing for
    `answer_seconds` while others wait for it.
    """

    rank: int
    count: int
    host: str
    ports: tuple[int, ...]
    token: str = dataclasses.field(repr=False)
    arrival_seconds: float = 300.0
    answer_seconds: float = 600.0


def listen(host: str, ports: Sequence[int]) -> socket.socket:
    """Return a socket that listens at the first free port; 0 is any. Raises BackendError if none is free.

    If `host` has several addresses, it is the first one that is this machine's; the others try all of them.
    """
    reason = ""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        found, reason = [], error.strerror or str(error)
    for port, (family, *_, address) in itertools.product(ports, found):
        try:
            return socket.create_server((address[0], port), family=family)
        except OSError as error:
            reason = error.strerror or str(error)
    message = f"worker 0 cannot listen at {_address(host, ports)}: {reason}"
    raise BackendError(message, "check the address; other programs may use these ports")


def meet(
    meeting: Meeting,
    identity: dict[str, str],
    listener: socket.socket | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Group:
    """Connect this worker with all others; `identity` must be the same for all.

    Worker 0 may pass the `listener` that it has opened. `on_wait` is called every second of a wait, and may
    raise an error that ends it.

    Raises:
        BackendError: a worker did not arrive in time, or worker 0 refuses this one.
        ConfigurationError: a worker has another identity.
    """
    with contextlib.ExitStack() as opened:  # closed unless all have met
        if meeting.rank == 0:
            with (
                listener or listen(meeting.host, meeting.ports) as door,
                Arrivals(door, meeting.token) as arrivals,
            ):
                connections = _receive_all(meeting, identity, arrivals, opened, on_wait)
        else:
            connections = _join(meeting, identity, opened, on_wait)
        opened.pop_all()
    for connection in connections.values():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Group(meeting.rank, connections, meeting.answer_seconds)


def _receive_all(
    meeting: Meeting,
    identity: dict[str, str],
    arrivals: Arrivals,
    opened: contextlib.ExitStack,
    on_wait: Callable[[], None],
) -> dict[int, socket.socket]:
    """Return worker 0's connections, once all other workers have arrived."""
    deadline = time.monotonic() + meeting.arrival_seconds
    lines: dict[int, Line] = {}
    addresses: dict[int, Any] = {}
    own = {**identity, "number of workers": str(meeting.count)}
    while len(lines) < meeting.count - 1:
        on_wait()
        left = deadline - time.monotonic()
        if left < 0:
            missing = ", ".join(str(rank) for rank in range(1, meeting.count) if rank not in lines)
            waited = f"within {meeting.arrival_seconds:.0f} seconds"
            message = f"of {meeting.count} workers, {missing} did not arrive {waited}"
            raise BackendError(message, "read its log; a firewall between the nodes may be the reason")
        arrival = arrivals.next(min(left, WAIT_SECONDS))
        if arrival is None:
            continue
        line, hello = arrival
        opened.enter_context(line.connection)
        rank: int = hello.get("rank", 0)
        if different := _differences(hello.get("identity", {}), own):
            message = f"worker {rank} cannot train with worker 0: {different}"
            line.refuse(message)
            raise ConfigurationError(message, "start all workers with the same job and the same packages")
        if rank in lines or rank not in range(1, meeting.count):
            line.refuse(f"worker {rank} of {meeting.count} has arrived before")
            continue
        lines[rank], addresses[rank] = line, hello["address"]
    for rank, line in lines.items():
        try:
            line.send({"addresses": addresses})
        except OSError as error:
            raise WorkerLost(f"worker {rank} of {meeting.count} is gone: {error}", "read its log") from error
    return {rank: line.connection for rank, line in lines.items()}


def _join(
    meeting: Meeting,
    identity: dict[str, str],
    opened: contextlib.ExitStack,
    on_wait: Callable[[], None],
) -> dict[int, socket.socket]:
    """Connect another worker than 0 with all others; return its connections."""
    deadline = time.monotonic() + meeting.arrival_seconds
    line = _reach_worker_0(meeting, deadline, on_wait)
    zero = opened.enter_context(line.connection)
    connections = {0: zero}
    host = zero.getsockname()[0]
    with socket.create_server((host, 0), family=zero.family) as listener:
        own = {**identity, "number of workers": str(meeting.count)}
        port = listener.getsockname()[1]
        try:
            line.send({"rank": meeting.rank, "identity": own, "address": [host, port]})
            zero.settimeout(max(0.0, deadline - time.monotonic()) + handshake.QUEUE_SECONDS)
            addresses = line.receive()["addresses"]
        except (OSError, ValueError) as error:
            message = f"worker {meeting.rank} of {meeting.count}: worker 0 has ended before all had arrived"
            raise BackendError(message, "read the log of worker 0") from error
        try:
            for rank in range(1, meeting.rank):
                connections[rank] = opened.enter_context(_call_worker(meeting, rank, *addresses[str(rank)]))
            with Arrivals(listener, meeting.token) as arrivals:
                _receive_higher(meeting, arrivals, connections, opened)
        except BackendError as error:
            send_error(zero, error, error.message)
            raise
    return connections


def _receive_higher(
    meeting: Meeting,
    arrivals: Arrivals,
    connections: dict[int, socket.socket],
    opened: contextlib.ExitStack,
) -> None:
    """Add the connections of the workers with higher numbers, which call this one. Raises BackendError."""
    deadline = time.monotonic() + handshake.QUEUE_SECONDS + meeting.count
    while len(connections) < meeting.count - 1:
        arrival = arrivals.next(deadline - time.monotonic())
        if arrival is not None:
            connections[arrival[1]["rank"]] = opened.enter_context(arrival[0].connection)
        elif time.monotonic() > deadline:
            absent = (str(r) for r in range(meeting.rank + 1, meeting.count) if r not in connections)
            host, port, *_ = arrivals.listener.getsockname()
            where = f"worker {meeting.rank} at {host}, port {port}"
            message = f"of {meeting.count} workers, {', '.join(absent)} cannot reach {where}"
            raise BackendError(message, "open all ports between the nodes for each other")


def _reach_worker_0(meeting: Meeting, deadline: float, on_wait: Callable[[], None]) -> Line:
    while True:
        on_wait()
        for port in meeting.ports:
            try:
                return handshake.call((meeting.host, port), meeting.token)
            except OSError as error:
                reason = error.strerror or str(error)
            except ValueError as error:
                reason = str(error)
        if time.monotonic() > deadline:
            where = f"worker 0 at {_address(meeting.host, meeting.ports)}"
            waited = f"within {meeting.arrival_seconds:.0f} seconds"
            message = f"worker {meeting.rank} of {meeting.count} cannot reach {where} {waited}: {reason}"
            raise BackendError(message, "read the log of worker 0; a firewall may be the reason")
        time.sleep(RETRY_SECONDS)


def _call_worker(meeting: Meeting, rank: int, host: str, port: int) -> socket.socket:
    try:
        line = handshake.call((host, port), meeting.token)
        line.send({"rank": meeting.rank})
    except (OSError, ValueError) as error:
        message = f"worker {meeting.rank} cannot reach worker {rank} at {host}, port {port}: {error}"
        raise BackendError(message, "open all ports between the nodes for each other") from error
    return line.connection


def _differences(others: dict[str, str], own: dict[str, str]) -> str:
    names = sorted(own.keys() | others.keys())
    pairs = ((name, others.get(name), own.get(name)) for name in names)
    return "; ".join(f"its {name} is {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours)


def _address(host: str, ports: Sequence[int]) -> str:
    return f"{host}, port {ports[0]}" if len(ports) == 1 else f"{host}, ports {ports[0]} to {ports[-1]}"
