"""Workers find each other, and refuse strangers."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.training.distributed import handshake
from mnist_cnn.training.distributed.rendezvous import Rendezvous, connect, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.training.distributed.group import ConnectedGroup

HOST = "127.0.0.1"
TOKEN = secrets.token_hex(8)
IDENTITY = {"job": "a" * 64, "tensorflow": "2.21.0"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen(HOST, (0,)) as opened:
        yield opened


@contextmanager
def closing_all(groups: list[ConnectedGroup]) -> Iterator[None]:
    with ExitStack() as stack:
        for group in groups:
            stack.enter_context(group)
        yield


def rendezvous(listener: socket.socket, count: int, rank: int = 0, seconds: float = 20.0) -> Rendezvous:
    ports = (listener.getsockname()[1],)
    return Rendezvous(rank, count, HOST, ports, token=TOKEN, arrival_seconds=seconds)


def all_meet(
    listener: socket.socket, *others: tuple[Rendezvous, dict[str, str]], seconds: float = 20.0
) -> list[Any]:
    """Return the groups, or the errors, of worker 0 and the others."""
    with ThreadPoolExecutor(len(others) + 1) as pool:
        count = max((other.count for other, _ in others), default=2)
        zero = rendezvous(listener, count, seconds=seconds)
        futures = [pool.submit(connect, zero, IDENTITY, listener)]
        futures += [pool.submit(connect, other, identity) for other, identity in others]
        return [future.exception() or future.result() for future in futures]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_workers_are_connected_with_all(listener: socket.socket, count: int) -> None:
    groups = all_meet(listener, *((rendezvous(listener, count, rank), IDENTITY) for rank in range(1, count)))

    with ThreadPoolExecutor(count) as pool, closing_all(groups):
        assert [group.rank for group in groups] == [*range(count)]
        gathered = list(pool.map(lambda group: group.all_gather(str(group.rank).encode()), groups))
    assert gathered == [[str(rank).encode() for rank in range(count)]] * count


def test_a_worker_that_never_arrives_is_named(listener: socket.socket) -> None:
    ends = all_meet(listener, (rendezvous(listener, 3, 1, seconds=1.0), IDENTITY), seconds=1.0)

    assert isinstance(ends[0], BackendError)
    assert ends[0].message == "worker 2 of 3 did not connect within 1 seconds"
    assert isinstance(ends[1], BackendError)
    assert "worker 0 has ended" in ends[1].message


@pytest.mark.parametrize(
    ("name", "value"), [("tensorflow", "2.20.0"), ("job", "b" * 64), ("mnist_cnn", "0.2.0")]
)
def test_a_worker_with_another_job_or_package_is_refused(
    listener: socket.socket, name: str, value: str
) -> None:
    ends = all_meet(listener, (rendezvous(listener, 2, 1), {**IDENTITY, name: value}))

    assert isinstance(ends[0], ConfigurationError)
    assert f"worker 1 cannot train with worker 0: its {name} is {value}" in ends[0].message
    assert ends[1].message == ends[0].message


def test_a_worker_of_a_larger_group_is_refused(listener: socket.socket) -> None:
    other = dataclasses.replace(rendezvous(listener, 2, 1), count=4)
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(connect, rendezvous(listener, 2), IDENTITY, listener)
        one = pool.submit(connect, other, IDENTITY)

        assert "its number of workers is 4, not 2" in str(zero.exception())
        assert "its number of workers is 4, not 2" in str(one.exception())


def test_a_worker_that_arrives_twice_is_refused_and_the_others_train(listener: socket.socket) -> None:
    with ThreadPoolExecutor(4) as pool:
        zero = pool.submit(connect, rendezvous(listener, 3), IDENTITY, listener)
        twins = [pool.submit(connect, rendezvous(listener, 3, 1), IDENTITY) for _ in range(2)]
        first = next(as_completed(twins))
        assert str(first.exception()).startswith("worker 1 of 3 connected twice")
        twins.remove(first)
        two = pool.submit(connect, rendezvous(listener, 3, 2), IDENTITY)

        with closing_all(groups := [future.result() for future in (zero, *twins, two)]):
            assert [group.rank for group in groups] == [0, 1, 2]


def test_a_worker_whose_number_is_too_high_is_refused(listener: socket.socket) -> None:
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(connect, rendezvous(listener, 2, seconds=2.0), IDENTITY, listener)
        with pytest.raises(BackendError, match="there is no worker 2: the run has 2"):
            connect(rendezvous(listener, 2, 2), IDENTITY)
        assert "worker 1 of 2 did not connect" in str(zero.exception())


def test_a_stranger_without_the_token_is_refused_and_the_others_train(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    shown = repr(rendezvous(listener, 2))
    stranger = dataclasses.replace(rendezvous(listener, 2, 1, seconds=1.0), token=TOKEN[::-1])
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as pool:
        zero = pool.submit(connect, rendezvous(listener, 2), IDENTITY, listener)
        with pytest.raises(BackendError, match=r"cannot reach worker 0 .* it does not know this run's token"):
            connect(stranger, IDENTITY)
        with connect(rendezvous(listener, 2, 1), IDENTITY) as one, zero.result():
            assert one.count == 2
    assert caplog.text.count("refused a connection from 127.0.0.1") == 1
    assert TOKEN not in caplog.text + shown


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n" * 8, b"\xff" * 200])
def test_a_program_that_speaks_another_protocol_disturbs_nobody(
    listener: socket.socket, words: bytes
) -> None:
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(connect, rendezvous(listener, 2), IDENTITY, listener)
        with socket.create_connection(listener.getsockname()) as scanner:
            scanner.sendall(words)
        with connect(rendezvous(listener, 2, 1), IDENTITY) as one, zero.result():
            assert one.count == 2


def test_strangers_that_say_nothing_delay_nobody(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "GREETING_SECONDS", 3600)
    with ThreadPoolExecutor(2) as pool, ExitStack() as strangers:
        for _ in range(5):
            strangers.enter_context(socket.create_connection(listener.getsockname()))
        zero = pool.submit(connect, rendezvous(listener, 2), IDENTITY, listener)
        with connect(rendezvous(listener, 2, 1), IDENTITY) as one, zero.result():
            assert one.count == 2


def test_worker_0_listens_at_the_first_address_that_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have addresses of another network, or of an IPv6 that this machine does not have."""
    foreign, own = "192.0.2.1", HOST  # the first is for documentation only (RFC 5737)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in (foreign, own)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen("node-1", (0,)) as opened:
        assert opened.getsockname()[0] == own


def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(BackendError, match=r"worker 0 cannot listen at node\.invalid, port 1"):
        listen("node.invalid", (1,))


def test_a_port_that_is_taken_is_skipped(listener: socket.socket) -> None:
    taken = listener.getsockname()[1]
    with listen(HOST, (0,)) as free:
        port = free.getsockname()[1]
    with listen(HOST, (taken, port)) as found:
        assert found.getsockname()[1] == port

    with pytest.raises(BackendError, match=f"cannot listen at {HOST}, port {taken}: Address already in use"):
        listen(HOST, (taken,))


def test_another_program_at_a_candidate_port_is_skipped(listener: socket.socket) -> None:
    with socket.create_server((HOST, 0)) as foreign, ThreadPoolExecutor(3) as pool:
        pool.submit(_greet_as_mail_server, foreign)
        ports = (foreign.getsockname()[1], listener.getsockname()[1])
        zero = pool.submit(connect, rendezvous(listener, 2), IDENTITY, listener)
        with (
            connect(dataclasses.replace(rendezvous(listener, 2, 1), ports=ports), IDENTITY) as one,
            zero.result(),
        ):
            assert one.count == 2


def _greet_as_mail_server(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        connection.sendall(b"220 mail.example.org\r\n" * 20)


def test_nobody_listens(listener: socket.socket) -> None:
    listener.close()
    away = Rendezvous(1, 2, HOST, (9,), "t", arrival_seconds=0.5)

    with pytest.raises(BackendError, match=r"worker 1 of 2 cannot reach worker 0 .* Connection refused"):
        connect(away, IDENTITY)
