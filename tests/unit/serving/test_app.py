"""The application's own limits and errors, without a server around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mnist_cnn.serving import limits
from mnist_cnn.serving.app import Service, application

if TYPE_CHECKING:
    import pytest
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mnist_cnn.prediction.predictor import Predictor

BLACK = json.dumps([[0] * 28] * 28).encode()


@dataclass(frozen=True)
class Broken:
    """A predictor with a bug."""

    height: int = 28
    width: int = 28

    def predict(self, _: object) -> None:
        raise RuntimeError("the cause")


async def request(app: ASGIApp, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """Send a request to an application; return the status and the JSON of its answer."""
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "raw_path": path.encode()}
    scope |= {"headers": [], "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    with suppress(RuntimeError):  # Starlette raises it again, after the answer
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


def test_a_bug_is_printed_here_and_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(cast("Predictor", Broken()), "model")
    status, answer = asyncio.run(request(application(service), "POST", "/predict", BLACK))
    assert status == 500
    assert answer == {"error": "the server has a bug", "hint": "the server's own output has the traceback"}
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: POST /predict: a bug: RuntimeError: the cause\n")
    assert b'requests_total{path="/predict",status="500"} 1.0' in service.metrics.text()


def test_too_many_requests_are_refused_and_later_ones_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REQUESTS", 2)
    may_end = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await may_end.wait()
        await limits.refusal(418, "answered", "")(scope, receive, send)

    async def ask_three_times(ask: Callable[[], Any]) -> list[int]:
        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
        refused = (await asyncio.wait_for(ask(), 10))[0]  # it would wait for ever if it were not refused
        may_end.set()
        answered = [status for status, _ in await asyncio.gather(first, second, ask())]
        return [refused, *answered]

    limited = limits.LimitRequestsMiddleware(slow)
    assert asyncio.run(ask_three_times(lambda: request(limited, "GET", "/"))) == [503, 418, 418, 418]
