"""How the workers of a run find and check each other.

Worker 0 listens; the others connect to it, then to each other. Both sides prove that they know the run's
token: an HMAC-SHA256 of the other side's random bytes and of what is said. The token itself is never sent.
What follows is not encrypted, as in MPI or gloo: the workers' network must be trusted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import logging
import secrets
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.training.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NONCE_BYTES = 32
MAX_BYTES = 64 * 1024
LENGTH = struct.Struct("!I")
GREETING_SECONDS = 10.0
"""How long a connection may take to prove that it knows the token."""
RETRY_SECONDS = 0.2

log = logging.getLogger("mnist_cnn")


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
    """Return a socket that listens at the first free port; 0 is any. Raises BackendError if none is free."""
    for port in ports:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family)
        except OSError as error:
            reason = error.strerror or str(error)
    message = f"worker 0 cannot listen at {host}, {_ports(ports)}: {reason}"
    raise BackendError(message, "check the address; other programs may use these ports")


def meet(
    meeting: Meeting,
    identity: dict[str, str],
    listener: socket.socket | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Group:
    """Connect this worker with all others; `identity` must be the same for all.

    Worker 0 may pass the `listener` that it has opened, and a function to call every second while it waits.

    Raises:
        BackendError: a worker did not arrive in time, or worker 0 refuses this one.
        ConfigurationError: a worker has another identity.
    """
    with contextlib.ExitStack() as stack:
        if meeting.rank == 0:
            listener = stack.enter_context(listener or listen(meeting.host, meeting.ports))
            connections = _Receptionist(meeting, identity, listener).receive_all(on_wait)
        else:
            connections = _join(meeting, identity)
    for connection in connections.values():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Group(meeting.rank, connections, meeting.answer_seconds)


class _Receptionist:
    """Worker 0, which receives the others."""

    def __init__(self, meeting: Meeting, identity: dict[str, str], listener: socket.socket) -> None:
        self.meeting, self.identity, self.listener = meeting, identity, listener
        self.arrived: dict[int, _Line] = {}
        self.addresses: dict[int, list[Any]] = {}

    def receive_all(self, on_wait: Callable[[], None]) -> dict[int, socket.socket]:
        """Return the connections with all other workers, once all have arrived."""
        deadline = time.monotonic() + self.meeting.arrival_seconds
        try:
            while len(self.arrived) < self.meeting.count - 1:
                on_wait()
                self._receive_one(deadline)
        except BaseException:
            for line in self.arrived.values():
                line.connection.close()
            raise
        for line in self.arrived.values():
            line.send({"addresses": self.addresses})
        return {rank: line.connection for rank, line in self.arrived.items()}

    def _receive_one(self, deadline: float) -> None:
        line, hello = _accept(self.listener, self.meeting.token, deadline)
        if line is None or hello is None:
            if time.monotonic() < deadline:
                return
            missing = sorted({*range(1, self.meeting.count)} - self.arrived.keys())
            names = ", ".join(map(str, missing))
            message = (
                f"worker {names} of {self.meeting.count} did not arrive within "
                f"{self.meeting.arrival_seconds:.0f} seconds"
            )
            raise BackendError(message, "read its log; a firewall between the nodes may be the reason")
        rank, others = hello["rank"], hello["identity"]
        if rank in self.arrived or not 0 < rank < self.meeting.count:
            line.refuse(f"worker {rank} of {self.meeting.count} has arrived before")
            return
        changed = _differences(others, self.identity)
        if hello["count"] != self.meeting.count:
            changed = [f"it expects {hello['count']} workers, not {self.meeting.count}"]
        if changed:
            message = f"worker {rank} cannot train with worker 0: {'; '.join(changed)}"
            line.refuse(message)
            raise ConfigurationError(message, "start all workers with the same job and the same packages")
        line.send({"accepted": True})
        self.arrived[rank] = line
        self.addresses[rank] = hello["address"]


def _join(meeting: Meeting, identity: dict[str, str]) -> dict[int, socket.socket]:
    """Connect one of the other workers with worker 0, then with the others."""
    deadline = time.monotonic() + meeting.arrival_seconds
    zero = _reach_worker_0(meeting, deadline)
    host = zero.connection.getsockname()[0]
    with socket.create_server((host, 0), family=zero.connection.family) as listener:
        port = listener.getsockname()[1]
        hello = {"rank": meeting.rank, "count": meeting.count, "identity": identity, "address": [host, port]}
        try:
            zero.send(hello)
            zero.receive()
            zero.connection.settimeout(max(1.0, deadline - time.monotonic() + GREETING_SECONDS))
            addresses = zero.receive()["addresses"]
        except (OSError, ValueError) as error:
            message = f"worker {meeting.rank} of {meeting.count}: worker 0 has ended: {error}"
            raise BackendError(message, "read the log of worker 0") from error
        connections = {0: zero.connection}
        for rank in range(1, meeting.rank):
            connections[rank] = _call_peer(meeting, rank, addresses[str(rank)], deadline)
        while len(connections) < meeting.count - 1:
            line, hello = _accept(listener, meeting.token, deadline)
            if line is not None and hello is not None:
                connections[hello["rank"]] = line.connection
            elif time.monotonic() > deadline:
                message = f"worker {meeting.rank} of {meeting.count} waited in vain for the others"
                raise BackendError(message, "a firewall between the nodes may be the reason")
    return connections


def _reach_worker_0(meeting: Meeting, deadline: float) -> _Line:
    reason = "it does not know this run's token"
    while True:
        for port in meeting.ports:
            try:
                return _call((meeting.host, port), meeting.token)
            except OSError as error:
                reason = error.strerror or str(error)
            except ValueError as error:
                reason = str(error)
        if time.monotonic() > deadline:
            message = (
                f"worker {meeting.rank} of {meeting.count} cannot reach worker 0 at {meeting.host}, "
                f"{_ports(meeting.ports)}, within {meeting.arrival_seconds:.0f} seconds: {reason}"
            )
            raise BackendError(message, "read the log of worker 0; a firewall may be the reason")
        time.sleep(RETRY_SECONDS)


def _call_peer(meeting: Meeting, rank: int, address: list[Any], deadline: float) -> socket.socket:
    try:
        line = _call((address[0], address[1]), meeting.token, max(1.0, deadline - time.monotonic()))
        line.send({"rank": meeting.rank})
    except (OSError, ValueError) as error:
        where = f"worker {rank} at {address[0]}, port {address[1]}"
        message = f"worker {meeting.rank} cannot reach {where}: {error}"
        raise BackendError(message, "open all ports between the nodes for each other") from error
    return line.connection


@dataclasses.dataclass
class _Line:
    """A connection on which both sides know the token; `nonce` are the random bytes of both."""

    connection: socket.socket
    token: str
    nonce: bytes
    sent: int = 0
    received: int = 0
    is_caller: bool = False

    def send(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        mac = self._mac(text, is_mine=True)
        self.sent += 1
        self.connection.sendall(LENGTH.pack(len(text)) + mac + text)

    def refuse(self, reason: str) -> None:
        """Say why, and close the connection."""
        with contextlib.suppress(OSError):
            self.send({"refused": reason})
        self.connection.close()

    def receive(self) -> dict[str, Any]:
        """Return what the other side says. Raises OSError or ValueError, and BackendError if it refuses."""
        (length,) = LENGTH.unpack(_receive(self.connection, LENGTH.size))
        if length > MAX_BYTES:
            raise ValueError("it does not speak this program's protocol")
        mac = _receive(self.connection, hashlib.sha256().digest_size)
        text = _receive(self.connection, length)
        if not hmac.compare_digest(mac, self._mac(text, is_mine=False)):
            raise ValueError("it does not know this run's token")
        self.received += 1
        content: dict[str, Any] = json.loads(text)
        if "refused" in content:
            raise BackendError(content["refused"], "read the log of worker 0")
        return content

    def _mac(self, text: bytes, *, is_mine: bool) -> bytes:
        side = b"caller" if self.is_caller == is_mine else b"listener"
        number = self.sent if is_mine else self.received
        said = b"%s %d %s %s" % (side, number, self.nonce, text)
        return hmac.digest(self.token.encode(), said, "sha256")


def _accept(
    listener: socket.socket, token: str, deadline: float
) -> tuple[_Line | None, dict[str, Any] | None]:
    """Return the next connection and what its caller says first; None if there is none, or it is refused."""
    listener.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
    try:
        connection, address = listener.accept()
    except OSError:
        return None, None
    try:
        connection.settimeout(GREETING_SECONDS)
        nonce = secrets.token_bytes(NONCE_BYTES)
        connection.sendall(nonce)
        line = _Line(connection, token, nonce + _receive(connection, NONCE_BYTES))
        line.send({"welcome": True})
        return line, line.receive()
    except (OSError, ValueError) as error:
        log.warning("refused a connection from %s: %s", address[0], error)
        connection.close()
        return None, None


def _call(address: tuple[str, int], token: str, seconds: float = GREETING_SECONDS) -> _Line:
    """Return a connection whose other side knows the token. Raises OSError or ValueError."""
    connection = socket.create_connection(address, min(seconds, GREETING_SECONDS))
    try:
        theirs = _receive(connection, NONCE_BYTES)
        mine = secrets.token_bytes(NONCE_BYTES)
        connection.sendall(mine)
        line = _Line(connection, token, theirs + mine, is_caller=True)
        line.receive()
    except BaseException:
        connection.close()
        raise
    return line


def _receive(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            raise ConnectionResetError("it has closed the connection")
        content += piece
    return content


def _differences(others: dict[str, str], own: dict[str, str]) -> list[str]:
    names = sorted(own.keys() | others.keys())
    return [f"its {n} is {others.get(n)}, not {own.get(n)}" for n in names if others.get(n) != own.get(n)]


def _ports(ports: Sequence[int]) -> str:
    return f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
