"""Connections between processes that share a token.

Each proves that it knows the token by an HMAC-SHA256 of the message, its sender's side and number, and random
bytes of both sides. The token itself is never sent. Messages are JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import logging
import queue
import secrets
import socket
import struct
import threading
import time
from typing import Any, Self

from mnist_cnn.errors import BackendError

NONCE_BYTES = 32
MAX_BYTES = 64 * 1024
HEADER = struct.Struct(f"!I{hashlib.sha256().digest_size}s")
GREETING_SECONDS = 3.0
"""How long a caller may take for its proof."""
MAX_GREETINGS = 64
"""How many callers are greeted at once. Others wait."""
POLL_SECONDS = 0.1
QUEUE_SECONDS = 10.0
"""How long a caller waits for the listener."""
UNPROVEN = "it does not know this run's token"

log = logging.getLogger("mnist_cnn")


@dataclasses.dataclass
class Channel:
    """A connection whose two sides know the token.

    `nonce` are the random bytes of both sides.
    """

    connection: socket.socket
    token: str = dataclasses.field(repr=False)
    nonce: bytes
    is_caller: bool
    sent: int = 0
    received: int = 0

    def send(self, content: dict[str, Any]) -> None:
        """Send a message. Raises OSError."""
        text = json.dumps(content).encode()
        proof = self._proof(text, self.sent, of_caller=self.is_caller)
        self.sent += 1
        self.connection.sendall(HEADER.pack(len(text), proof) + text)

    def refuse(self, reason: str) -> None:
        """Send why, and close the connection."""
        with contextlib.suppress(OSError):
            self.send({"refused": reason})
        self.connection.close()

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            OSError: the connection is lost, or the message does not come in time.
            ValueError: the sender does not know the token.
            BackendError: the sender refuses this process.
        """
        length, proof = HEADER.unpack(_receive(self.connection, HEADER.size))
        if length > MAX_BYTES:
            raise ValueError(UNPROVEN)
        text = _receive(self.connection, length)
        if not hmac.compare_digest(proof, self._proof(text, self.received, of_caller=not self.is_caller)):
            raise ValueError(UNPROVEN)
        self.received += 1
        content: dict[str, Any] = json.loads(text)
        if "refused" in content:
            raise BackendError(content["refused"], "read the log of worker 0")
        return content

    def _proof(self, text: bytes, number: int, *, of_caller: bool) -> bytes:
        side = b"caller" if of_caller else b"listener"
        return hmac.digest(self.token.encode(), b"%s %d %s %s" % (side, number, self.nonce, text), "sha256")


class Arrivals:
    """A listener's callers that know the token.

    Use it as a context. Each caller is greeted in a thread of its own, so a stranger that says nothing delays
    nobody.
    """

    def __init__(self, listener: socket.socket, token: str) -> None:
        self.listener, self._token = listener, token
        self._proven: queue.SimpleQueue[tuple[Channel, dict[str, Any]]] = queue.SimpleQueue()
        self._refused: set[str] = set()  # addresses
        self._greetings = threading.BoundedSemaphore(MAX_GREETINGS)
        self._is_closed = threading.Event()
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def next(self, seconds: float) -> tuple[Channel, dict[str, Any]] | None:
        """Return the next connection and message, None after `seconds`."""
        with contextlib.suppress(queue.Empty):
            return self._proven.get(timeout=max(0.01, seconds))
        return None

    def __enter__(self) -> Self:
        self.listener.settimeout(POLL_SECONDS)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more callers; close the unused connections."""
        self._is_closed.set()
        self._accepting.join()
        self._close_unreturned()

    def _close_unreturned(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._proven.get_nowait()[0].connection.close()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                connection, (host, *_) = self.listener.accept()
            except OSError:  # nobody has called, or the caller has hung up meanwhile
                continue
            self._greetings.acquire()  # `_greet` releases it
            threading.Thread(target=self._greet, args=(connection, host), daemon=True).start()

    def _greet(self, connection: socket.socket, host: str) -> None:
        """Check that a caller knows the token.

        Logs an address's first caller that does not.
        """
        try:
            connection.settimeout(GREETING_SECONDS)
            nonce = secrets.token_bytes(NONCE_BYTES)
            connection.sendall(nonce)
            channel = Channel(
                connection, self._token, nonce + _receive(connection, NONCE_BYTES), is_caller=False
            )
            channel.send({})
            hello = channel.receive()
            connection.settimeout(QUEUE_SECONDS)
            self._proven.put((channel, hello))
            if self._is_closed.is_set():
                self._close_unreturned()
        except (OSError, ValueError, BackendError):
            connection.close()
            if host not in self._refused and not self._is_closed.is_set():
                self._refused.add(host)
                log.warning("refused a connection from %s: it does not know this run's token", host)
        finally:
            self._greetings.release()


def call(address: tuple[str, int], token: str) -> Channel:
    """Return a connection to a listener with the token.

    Raises OSError or ValueError.
    """
    connection = socket.create_connection(address, QUEUE_SECONDS)
    try:
        theirs, mine = _receive(connection, NONCE_BYTES), secrets.token_bytes(NONCE_BYTES)
        connection.sendall(mine)
        channel = Channel(connection, token, theirs + mine, is_caller=True)
        channel.receive()
    except BaseException:
        connection.close()
        raise
    return channel


def _receive(connection: socket.socket, length: int) -> bytes:
    deadline = time.monotonic() + (connection.gettimeout() or 0)
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            raise ConnectionResetError("it has closed the connection")
        content += piece
        if time.monotonic() > deadline:  # it sends byte by byte
            raise TimeoutError("timed out")
    return content
