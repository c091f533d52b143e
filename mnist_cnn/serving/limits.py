"""Limits of a request's size, time and number."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY_BYTES = 4 * 1024**2
"""Most bytes of a body.

A phone's photograph has 2 to 4 MB.
"""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
"""Most bytes that are received and discarded.

Many clients read no answer before they have sent all.
"""
BODY_SECONDS = 10.0
"""Seconds for a client to send its body."""
MAX_REQUESTS = 256
"""Most requests at once.

With the largest bodies they take 1 GiB of memory.
"""


class RefusedError(HTTPException):
    """A refused request, with a hint what to do."""

    def __init__(
        self, status: int, message: str, hint: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.hint = hint


def refusal(status: int, message: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    return JSONResponse({"error": message, "hint": hint}, status, headers)


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises RefusedError with 413 if it is too large, without receiving more of it than MAX_DISCARDED_BYTES,
    and with 408 if the client takes too long.
    """
    declared = int(request.headers.get("content-length", "0"))
    if declared > MAX_DISCARDED_BYTES:
        raise _too_large()
    body = bytearray()
    received = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                if received > MAX_DISCARDED_BYTES:
                    raise _too_large()
                body += chunk if received <= MAX_BODY_BYTES else b""
    except TimeoutError:
        message = f"the body did not arrive in {BODY_SECONDS:.0f} seconds"
        raise RefusedError(408, message, "send it faster", {"Connection": "close"}) from None
    if received > MAX_BODY_BYTES:
        raise _too_large()
    return bytes(body)


def _too_large() -> RefusedError:
    message = f"the body is too large; the limit is {MAX_BODY_BYTES // 1024**2} MiB"
    return RefusedError(
        413, message, "make the picture smaller; 1000 pixels a side are plenty", {"Connection": "close"}
    )


class LimitRequestsMiddleware:
    """Refuses requests while MAX_REQUESTS others are not answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 503."""
        if self._active >= MAX_REQUESTS:
            headers = {"Retry-After": "1", "Connection": "close"}
            refused = refusal(
                503, f"the server answers {MAX_REQUESTS} requests already", "try again later", headers
            )
            await refused(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1
