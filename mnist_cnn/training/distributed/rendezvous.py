"""How workers find and check each other.

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
from mnist_cnn.training.distributed import handshake
from mnist_cnn.training.distributed.group import ConnectedGroup, WorkerLost, send_error
from mnist_cnn.training.distributed.handshake import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_cnn.training.distributed.handshake import Channel

RETRY_SECONDS = 0.2
WAIT_SECONDS = 1.0
"""How often `on_wait` is called."""


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """Where the workers of a run meet.

    Worker 0 listens at `host`, at the first free one of `ports`. A worker that does not arrive within
    `arrival_seconds` ends the run. So does one that sends nothing for `answer_seconds` while others wait for
    it.
    """

    rank: int
    count: int
    host: str
    ports: tuple[int, ...]
    token: str = dataclasses.field(repr=False)
    arrival_seconds: float = 300.0
    answer_seconds: float = 600.0


def listen(host: str, ports: Sequence[int]) -> socket.socket:
    """Return a socket that listens at a free port.

    It is the first free one of `ports`; 0 is any. If `host` has several addresses, it is the first one that
    is this machine's; the others try all of them. Raises BackendError if no port is free.
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


def connect(
    rendezvous: Rendezvous,
    identity: dict[str, str],
    listener: socket.socket | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> ConnectedGroup:
    """Connect this worker with all others.

    `identity` must be the same for all. Worker 0 may pass the `listener` that it has opened. `on_wait` is
    called every second of a wait, and may raise an error that ends it.

    Raises:
        BackendError: a worker did not arrive in time, or worker 0 refuses this one.
        ConfigurationError: a worker has another identity.
    """
    with contextlib.ExitStack() as opened:  # closed unless all have met
        if rendezvous.rank == 0:
            with (
                listener or listen(rendezvous.host, rendezvous.ports) as door,
                Arrivals(door, rendezvous.token) as arrivals,
            ):
                connections = _receive_all(rendezvous, identity, arrivals, opened, on_wait)
        else:
            connections = _join(rendezvous, identity, opened, on_wait)
        opened.pop_all()
    for connection in connections.values():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return ConnectedGroup(rendezvous.rank, connections, rendezvous.answer_seconds)


def _receive_all(
    rendezvous: Rendezvous,
    identity: dict[str, str],
    arrivals: Arrivals,
    opened: contextlib.ExitStack,
    on_wait: Callable[[], None],
) -> dict[int, socket.socket]:
    """Return worker 0's connections to all other workers."""
    deadline = time.monotonic() + rendezvous.arrival_seconds
    channels: dict[int, Channel] = {}
    addresses: dict[int, Any] = {}
    own = {**identity, "number of workers": str(rendezvous.count)}
    while len(channels) < rendezvous.count - 1:
        on_wait()
        left = deadline - time.monotonic()
        if left < 0:
            missing = [f"worker {rank}" for rank in range(1, rendezvous.count) if rank not in channels]
            waited = f"within {rendezvous.arrival_seconds:.0f} seconds"
            message = f"{' and '.join(missing)} of {rendezvous.count} did not connect {waited}"
            raise BackendError(message, "read the logs; a firewall between the nodes may be the reason")
        arrival = arrivals.next(min(left, WAIT_SECONDS))
        if arrival is None:
            continue
        channel, hello = arrival
        opened.enter_context(channel.connection)
        rank: int = hello.get("rank", 0)
        if different := _differences(hello.get("identity", {}), own):
            message = f"worker {rank} cannot train with worker 0: {different}"
            channel.refuse(message)
            raise ConfigurationError(message, "start all workers with the same job and the same packages")
        if rank in channels:
            channel.refuse(f"worker {rank} of {rendezvous.count} connected twice")
            continue
        if rank not in range(1, rendezvous.count):
            channel.refuse(f"there is no worker {rank}: the run has {rendezvous.count}")
            continue
        channels[rank], addresses[rank] = channel, hello["address"]
    for rank, channel in channels.items():
        try:
            channel.send({"addresses": addresses})
        except OSError as error:
            raise WorkerLost(
                f"worker {rank} of {rendezvous.count} is gone: {error}", "read its log"
            ) from error
    return {rank: channel.connection for rank, channel in channels.items()}


def _join(
    rendezvous: Rendezvous,
    identity: dict[str, str],
    opened: contextlib.ExitStack,
    on_wait: Callable[[], None],
) -> dict[int, socket.socket]:
    """Return a worker's connections to all others.

    The worker isn't worker 0.
    """
    deadline = time.monotonic() + rendezvous.arrival_seconds
    channel = _reach_worker_0(rendezvous, deadline, on_wait)
    zero = opened.enter_context(channel.connection)
    connections = {0: zero}
    host = zero.getsockname()[0]
    with socket.create_server((host, 0), family=zero.family) as listener:
        own = {**identity, "number of workers": str(rendezvous.count)}
        port = listener.getsockname()[1]
        try:
            channel.send({"rank": rendezvous.rank, "identity": own, "address": [host, port]})
            zero.settimeout(max(0.0, deadline - time.monotonic()) + handshake.QUEUE_SECONDS)
            addresses = channel.receive()["addresses"]
        except (OSError, ValueError) as error:
            message = (
                f"worker {rendezvous.rank} of {rendezvous.count}: worker 0 has ended before all had arrived"
            )
            raise BackendError(message, "read the log of worker 0") from error
        try:
            for rank in range(1, rendezvous.rank):
                connections[rank] = opened.enter_context(
                    _call_worker(rendezvous, rank, *addresses[str(rank)])
                )
            with Arrivals(listener, rendezvous.token) as arrivals:
                _receive_higher(rendezvous, arrivals, connections, opened)
        except BackendError as error:
            send_error(zero, error, error.message)
            raise
    return connections


def _receive_higher(
    rendezvous: Rendezvous,
    arrivals: Arrivals,
    connections: dict[int, socket.socket],
    opened: contextlib.ExitStack,
) -> None:
    """Add the connections of higher-numbered workers. Raises BackendError.

    Those workers call this one.
    """
    deadline = time.monotonic() + handshake.QUEUE_SECONDS + rendezvous.count
    while len(connections) < rendezvous.count - 1:
        arrival = arrivals.next(deadline - time.monotonic())
        if arrival is not None:
            connections[arrival[1]["rank"]] = opened.enter_context(arrival[0].connection)
        elif time.monotonic() > deadline:
            absent = (str(r) for r in range(rendezvous.rank + 1, rendezvous.count) if r not in connections)
            host, port, *_ = arrivals.listener.getsockname()
            where = f"worker {rendezvous.rank} at {host}, port {port}"
            message = f"of {rendezvous.count} workers, {', '.join(absent)} cannot reach {where}"
            raise BackendError(message, "open all ports between the nodes for each other")


def _reach_worker_0(rendezvous: Rendezvous, deadline: float, on_wait: Callable[[], None]) -> Channel:
    while True:
        on_wait()
        for port in rendezvous.ports:
            try:
                return handshake.call((rendezvous.host, port), rendezvous.token)
            except OSError as error:
                reason = error.strerror or str(error)
            except ValueError as error:
                reason = str(error)
        if time.monotonic() > deadline:
            where = f"worker 0 at {_address(rendezvous.host, rendezvous.ports)}"
            waited = f"within {rendezvous.arrival_seconds:.0f} seconds"
            message = (
                f"worker {rendezvous.rank} of {rendezvous.count} cannot reach {where} {waited}: {reason}"
            )
            raise BackendError(message, "read the log of worker 0; a firewall may be the reason")
        time.sleep(RETRY_SECONDS)


def _call_worker(rendezvous: Rendezvous, rank: int, host: str, port: int) -> socket.socket:
    try:
        channel = handshake.call((host, port), rendezvous.token)
        channel.send({"rank": rendezvous.rank})
    except (OSError, ValueError) as error:
        message = f"worker {rendezvous.rank} cannot reach worker {rank} at {host}, port {port}: {error}"
        raise BackendError(message, "open all ports between the nodes for each other") from error
    return channel.connection


def _differences(others: dict[str, str], own: dict[str, str]) -> str:
    names = sorted(own.keys() | others.keys())
    pairs = ((name, others.get(name), own.get(name)) for name in names)
    return "; ".join(f"its {name} is {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours)


def _address(host: str, ports: Sequence[int]) -> str:
    return f"{host}, port {ports[0]}" if len(ports) == 1 else f"{host}, ports {ports[0]} to {ports[-1]}"
