"""A loopback service that is called directly, without sockets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from helpers.loopback_calls import request

if TYPE_CHECKING:
    from loopback.handlers import Handlers
    from loopback.history import Run
    from loopback.server import Server


@dataclasses.dataclass
class Service:
    """A server whose runs are never executed and whose blobs are never read."""

    handlers: Handlers
    server: Server
    started: list[Run]

    def __call__(self, method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        response, _ = self.server.answer(request(self.handlers, method, url, body, **headers))
        assert response is not None
        return response.status, response.json()
