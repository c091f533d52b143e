"""Metrics in Prometheus' text format.

Requests, their time, predicted digits, and the process itself.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = CONTENT_TYPE_LATEST
PATHS = ("/", "/predict", "/health", "/metrics")
"""Paths with metrics of their own.

All others share one, because a client can invent any number of them.
"""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "mnist_cnn_requests", "Answered requests", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mnist_cnn_request_seconds",
            "Seconds from a request's head to the end of its answer",
            ["path"],
            registry=registry,
            buckets=BUCKETS,
        )
        self.predictions = Counter("mnist_cnn_predictions", "Predicted digits", ["digit"], registry=registry)

    def text(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts each request and its seconds."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = 0

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            self._metrics.requests.labels(path, str(status)).inc()
