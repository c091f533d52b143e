"""Runs the web application until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEAD_SECONDS = 10.0
"""Seconds for a client to send a request's head."""
IDLE_SECONDS = 5
"""How long a connection without a request stays open."""
STOP_SECONDS = 5
"""How long requests may take to end after Ctrl-C."""
BACKLOG = 1024


class TimedProtocol(H11Protocol):
    """Uvicorn's protocol, with a time limit for request heads."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit with the connection."""
        super().connection_made(transport)
        self._limit_head()

    def data_received(self, data: bytes) -> None:
        """Restart or end the time limit of a head.

        A further request restarts it; a complete head ends it.
        """
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_limit()
        elif self._head_timer is None:
            self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit with the connection."""
        self._end_limit()
        super().connection_lost(exc)

    def _limit_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _end_limit(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Port 0 is any free one.

    Raises:
        ConfigurationError: the host is not known, or is not this machine.
        BackendError: the port is taken, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # a name that no DNS could hold is a UnicodeError
        reason = getattr(error, "strerror", None) or "not a valid name"
        hint = "give an address of this machine, for example --host 127.0.0.1"
        raise ConfigurationError(f"--host {host}: {reason}", hint) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(error, host, port) from error
    return listener


def _bind_error(error: OSError, host: str, port: int) -> BackendError | ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return BackendError(
            f"port {port} of {host} is taken by another process",
            "choose another one: --port 0 takes any free one",
        )
    if error.errno == errno.EACCES:
        return BackendError(
            f"port {port} of {host} is not allowed", "choose one above 1023, such as --port 8000"
        )
    hint = "give an address of this machine, for example --host 127.0.0.1"
    return ConfigurationError(f"--host {host}: {error.strerror}", hint)


def url_of(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Finishes those that have begun, then raises KeyboardInterrupt.
    """
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    uvicorn.Server(config).run([listener])
