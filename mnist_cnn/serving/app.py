"""The web application.

It has `POST /predict`, `GET /health`, `GET /metrics` and the page. Every error is JSON with `error` and
`hint`, like that of a command with `--json`.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mnist_cnn import cpu
from mnist_cnn.errors import DataError, unexpected_error
from mnist_cnn.redaction import redact
from mnist_cnn.serving.answers import answer
from mnist_cnn.serving.limits import LimitRequestsMiddleware, RefusedError, refusal
from mnist_cnn.serving.limits import read_body as read_limited
from mnist_cnn.serving.metrics import CONTENT_TYPE, Metrics, MetricsMiddleware
from mnist_cnn.serving.security import SecurityHeadersMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from mnist_cnn.prediction.predictor import Predictor

PAGE = Path(__file__).parent / "page"
ANSWER_SECONDS = 10.0
"""How long a request may wait for its prediction."""
USAGE = "POST a picture to /predict, or open / in a browser"


@dataclass(frozen=True)
class Service:
    """A model, and what answers with it."""

    predictor: Predictor
    name: str
    metrics: Metrics = field(default_factory=Metrics)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(cpu.count()))

    async def predict(self, request: Request) -> Response:
        """Answer with the digit.

        Adds the prepared image if the URL's query has `image`.
        """
        body = await read_limited(request)
        predict = partial(answer, self.predictor, body, with_image="image" in request.query_params)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await asyncio.get_running_loop().run_in_executor(self.threads, predict)
        except DataError as error:
            return refusal(422, error.message, error.hint)
        except TimeoutError:
            return refusal(503, "the server is busy", "try again later", {"Retry-After": "1"})
        self.metrics.predictions.labels(str(found["digit"])).inc()
        return JSONResponse(found)

    async def health(self, _request: Request) -> Response:
        """Answer that the service runs, and with which model."""
        model = self.predictor
        sizes = {"height": model.height, "width": model.width, "classes": model.classes}
        return JSONResponse({"status": "ok", "model": self.name, **sizes, "class_names": model.class_names})

    async def show_metrics(self, _request: Request) -> Response:
        """Answer with the metrics in Prometheus' text format."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


def application(service: Service) -> ASGIApp:
    """Return the web application of a service."""
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/predict", _refuse_method, methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        Route("/health", service.health),
        Route("/metrics", service.show_metrics),
        Route("/classifier.js", _ask_server),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    handlers: Any = {HTTPException: _refuse, ClientDisconnect: _forget, Exception: _report_bug}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return MetricsMiddleware(SecurityHeadersMiddleware(LimitRequestsMiddleware(app)), service.metrics)


async def _ask_server(_request: Request) -> Response:
    """Answer with the page's module that asks this server."""
    return FileResponse(PAGE / "ask_server.js", media_type="text/javascript")


async def _refuse_method(_request: Request) -> Response:
    raise HTTPException(405, headers={"Allow": "POST"})


async def _refuse(request: Request, error: HTTPException) -> Response:
    """Answer what Starlette or `read_limited` has refused."""
    headers = dict(error.headers or {})
    if isinstance(error, RefusedError):
        return refusal(error.status_code, error.detail, error.hint, headers)
    reasons = {404: "does not exist", 405: f"does not take {request.method}"}
    reason = reasons.get(error.status_code, error.detail)
    return refusal(error.status_code, f"{request.url.path} {reason}", USAGE, headers)


async def _forget(_request: Request, _error: Exception) -> Response:
    """Answer a client that has gone; nobody reads it."""
    return Response(status_code=400)


async def _report_bug(request: Request, error: Exception) -> Response:
    """Print the traceback of a bug on stderr only."""
    sys.stderr.write(redact("".join(traceback.format_exception(error))))
    sys.stderr.write(f"error: {request.method} {request.url.path}: {unexpected_error(error).message}\n")
    return refusal(500, "the server has a bug", "the server's own output has the traceback")
