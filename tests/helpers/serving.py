"""`serve` as a real process, and raw requests to it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit

import requests
from helpers.processes import end_of, start_command

SECONDS = 60
"""Limit of a request in a test."""


@dataclass(frozen=True)
class Server:
    """A running `serve`."""

    url: str
    process: Popen[str]

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=SECONDS)

    def predict(self, body: bytes | Iterator[bytes], path: str = "predict") -> requests.Response:
        return requests.post(self.url + path, data=body, timeout=SECONDS)

    def connect(self) -> socket.socket:
        """Open a connection, for requests that no library sends."""
        address = urlsplit(self.url)
        return socket.create_connection((str(address.hostname), int(address.port or 0)), SECONDS)


@contextmanager
def served(model: Path, cwd: Path, *flags: str) -> Iterator[Server]:
    """Serve a model on a free port; SIGTERM must end the server with exit code 0 and without a traceback."""
    process = start_command("serve", str(model), "--port", "0", "--json", *flags, cwd=cwd)
    try:
        yield Server(_announced(process)["url"], process)
    finally:
        process.terminate()
        ended = end_of(process)
    assert ended.code == 0, ended


def _announced(process: Popen[str]) -> Any:
    """Return the JSON that `serve` prints when it listens."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            return json.loads("".join(lines))
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def answer_of(connection: socket.socket) -> tuple[int, Any]:
    """Return the status and the JSON of the answer that a connection gets, which the server then closes."""
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
