"""A CONNECT proxy that ends TLS itself and passes each request to one function.

It never opens a connection: it refuses and records every host that the service doesn't have.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .faults import Fault
from .messages import Request, Response

if TYPE_CHECKING:
    import trustme

Answerer = Callable[[Request], tuple[Response | None, Fault | None]]
"""Returns the response, or None to close the connection, and the fault to inject into the response."""

MAX_BODY = 600 * 1024 * 1024


class Proxy(socketserver.ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1."""

    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self, authority: trustme.CA, hosts: set[str], on_refused_host: Callable[[str], None]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.authority = authority
        self.hosts = hosts
        self.on_refused_host = on_refused_host
        self.closing = threading.Event()
        self._is_plugged_in = True
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and wait for its thread."""
        self.closing.set()
        self.shutdown()
        self._disconnect_all()
        self.server_close()

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Drop all connections and accept none, as if the clients' network were down."""
        self._is_plugged_in = False
        self._disconnect_all()
        try:
            yield
        finally:
            self._is_plugged_in = True

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        return self._is_plugged_in

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def close(self, connection: socket.socket) -> None:
        """Close a connection: the accepted socket, or the TLS socket that has replaced it."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _disconnect_all(self) -> None:
        with self._lock:
            for connection in self._open:
                _disconnect(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, unless the client just went away."""
        error = sys.exception()
        if not isinstance(error, (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


class _Connection(http.server.BaseHTTPRequestHandler):
    """One client's connection: first CONNECT, then requests to that host."""

    protocol_version = "HTTP/1.1"
    timeout = 300
    disable_nagle_algorithm = True
    server: Proxy
    host = ""

    def setup(self) -> None:
        super().setup()
        self.server.add(self.connection)

    def finish(self) -> None:
        super().finish()
        self.server.close(self.connection)

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0].lower()
        if host not in self.server.hosts:
            self.server.on_refused_host(host)
            self.close_connection = True
            self.send_response(403, "the loopback service does not have this host")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        context = _server_context(self.server.authority, host)
        plain = self.connection
        self.connection = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.server.add(self.connection)
        self.server.close(plain)
        self.connection.do_handshake()
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = socketserver._SocketWriter(self.connection)  # type: ignore[attr-defined]  # noqa: SLF001
        self.host = host
        self.close_connection = False

    def handle_expect_100(self) -> bool:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _request(self) -> None:
        if not self.host:  # plain http through the proxy: no part of Azure ML uses it
            self.server.on_refused_host(self.path)
            self.close_connection = True
            self.send_error(403)
            return
        request = Request(self.command, self.host, self.path, dict(self.headers.items()), self._body())
        response, fault = self.server.answerer(request)
        if response is None:
            self._hang_up()
            return
        if fault is not None and fault.kind == "delay":
            self.server.closing.wait(fault.seconds)
        self._send(response, truncated=fault is not None and fault.kind == "truncate")

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _request  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            raise ValueError(f"the request's body has {length} bytes, more than {MAX_BODY}")
        return self.rfile.read(length)

    def _send(self, response: Response, *, truncated: bool) -> None:
        length = len(response.body) if response.content_length is None else response.content_length
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if response.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if truncated:
            self.wfile.write(response.body[: len(response.body) // 2])
            self._hang_up()
        elif self.command != "HEAD":
            self.wfile.write(response.body)

    def _hang_up(self) -> None:
        self.close_connection = True
        _disconnect(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing; `Recording` keeps all requests."""


@functools.lru_cache(maxsize=64)
def _server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    """Return the TLS context of a server named `host`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def _disconnect(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
