"""An HTTP server on the loopback interface that serves a small data set, well or badly."""

from __future__ import annotations

import contextlib
import gzip
import math
import random
import struct
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mnist_cnn.data import datasets

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def idx(*shape: int) -> bytes:
    values = bytes(random.Random(0).choices(range(10), k=math.prod(shape)))  # noqa: S311 - pixels, not secrets
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


FILES = {
    f"{stems[0]}.gz": gzip.compress(idx(*shape), mtime=0)
    for stems, shape in zip(datasets.STEMS, [(40, 6, 6), (40,), (20, 6, 6), (20,)], strict=True)
}
FIRST = next(iter(FILES))


def send_header(request: BaseHTTPRequestHandler, **fields: str) -> None:
    request.send_response(200)
    for name, value in fields.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()


def whole(request: BaseHTTPRequestHandler, body: bytes) -> None:
    send_header(request, Content_Length=str(len(body)))
    request.wfile.write(body)


def truncated(request: BaseHTTPRequestHandler, body: bytes) -> None:
    send_header(request, Content_Length=str(len(body)))
    request.wfile.write(body[: len(body) // 2])


def wrong(request: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(request, bytes(len(body)))


def endless(request: BaseHTTPRequestHandler, _: bytes) -> None:
    send_header(request)
    with contextlib.suppress(OSError):  # the client closes the connection
        while True:
            request.wfile.write(bytes(64 * 1024))


def declared_encoded(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Declare the file's own gzip as the encoding, as some servers do for clients that accept it."""
    accepted = request.headers.get("Accept-Encoding", "")
    send_header(request, **({"Content_Encoding": "gzip"} if "gzip" in accepted else {}))
    request.wfile.write(body)


def status(code: int) -> Answer:
    def answer(request: BaseHTTPRequestHandler, _: bytes) -> None:
        request.send_error(code)

    answer.__name__ = f"status-{code}"  # pytest's name of the test
    return answer


class Server(ThreadingHTTPServer):
    """Serves FILES under /small/: a name's `answers` in order, then the whole file.

    `waits` are the seconds that pooch wanted to sleep before each retry; it does not sleep.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.requests: list[str] = []
        self.waits: list[float] = []

        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        folder, _, name = self.path.strip("/").partition("/")
        self.server.requests.append(name)
        if folder != "small" or name not in FILES:
            self.send_error(404)
            return
        answers = self.server.answers[name] or [whole]
        answers.pop(0)(self, FILES[name])

    def log_message(self, *_: Any) -> None:
        pass
