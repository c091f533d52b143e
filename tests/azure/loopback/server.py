"""Answers every request: injects faults, calls the handler, records it, and checks the answer."""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING

from . import headers, recorded_check, spec_check
from .execution import Execution
from .messages import Response, answer
from .recording import UNIMPLEMENTED, Exchange
from .refusals import Refusal, refused
from .routes import Router

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Fault, Faults
    from .handlers import Handlers
    from .history import Run
    from .messages import Request
    from .recording import Recording


class Server:
    """Answers requests from many threads; `start` executes a submitted run."""

    def __init__(
        self, handlers: Handlers, start: Callable[[Run], None], faults: Faults, recording: Recording
    ) -> None:
        self.handlers = handlers
        routes = [*handlers.routes(), *Execution(handlers, start).routes()]
        self.router = Router(handlers.tenancy, routes)
        self.faults = faults
        self.recording = recording
        self.listeners: list[Callable[[Request], None]] = []
        """Called with every request, before it is answered."""

    def answer(self, request: Request) -> tuple[Response | None, Fault | None]:
        """Return the response and the injected fault; no response closes the connection."""
        started = time.monotonic()
        number = self.recording.next_number()
        for listener in self.listeners:
            listener(request)
        fault = self.faults.for_request(request)
        kind = fault.kind if fault else None
        template, bug = self.template(request), ""
        response: Response | None = None
        if fault is not None and kind == "status":
            text = "an injected fault" + (_echo(request) if fault.echoes else "")
            response = refused(request, Refusal(fault.status, "ServiceError", text))
            response = Response(response.status, response.body, (*response.headers, *fault.headers))
        elif kind != "drop":
            response, bug = self._respond(request)
        is_control = not self._is_for_blobs(request)
        if is_control and response is not None:
            response = headers.added(request, response, time.monotonic() - started)
        violations: tuple[str, ...] = (bug,) if bug else ()
        if is_control and template != UNIMPLEMENTED and not bug:
            violations = _violations(request, response, is_injected=kind == "status")
        shown = None if kind == "lose-answer" else response
        self.recording.add(
            Exchange(
                number=number,
                method=request.method,
                host=request.host,
                path=request.path,
                query=request.query,
                template=template,
                status=shown.status if shown else 0,
                bytes_up=len(request.body),
                bytes_down=len(shown.body) if shown else 0,
                seconds=round(time.monotonic() - started, 4),
                fault=kind,
                sent=_json(request.body) if is_control else None,
                answered=_json(response.body) if is_control and response else None,
                violations=violations,
            )
        )
        return shown, fault

    def template(self, request: Request) -> str:
        """Return the template of the request's route, or the container if it is for a blob."""
        if self._is_for_blobs(request):
            container = request.path.split("/")[1]
            return f"(blob) /{container.removesuffix('-' + self.handlers.tenancy.workspace_id)}"
        matches = (route.template for route in self.router.routes if route.match(request) is not None)
        return next(matches, UNIMPLEMENTED)

    def _is_for_blobs(self, request: Request) -> bool:
        return request.host == self.handlers.tenancy.blob_host

    def _respond(self, request: Request) -> tuple[Response, str]:
        """Return the response, and the traceback if this service itself has a bug."""
        if self._is_for_blobs(request):
            return self.handlers.blobs.forward(request), ""
        try:
            found = self.router.find(request)
            if found is None:
                return answer({"error": {"code": "NotImplemented", "message": UNIMPLEMENTED}}, 501), ""
            route, named = found
            if route.needs_token:
                self.handlers.identity.require_token(named)
            return route.handler(named), ""
        except Refusal as refusal:
            return refused(request, refusal), ""
        except Exception as error:  # noqa: BLE001 - a bug here must fail the check, not hang the client
            bug = f"{request.method} {request.path} raised: {traceback.format_exc()}"
            return answer({"error": {"code": "Bug", "message": repr(error)}}, 501), bug


def _violations(request: Request, response: Response | None, *, is_injected: bool) -> tuple[str, ...]:
    """Return how the exchange disagrees with the published documents and with the recordings."""
    published = spec_check.violations(request, None if is_injected else response)
    recorded = recorded_check.violations(request, None if is_injected else response)
    return (
        *(f"not as published: {text}" for text in published),
        *(f"not as recorded: {text}" for text in recorded),
    )


def _echo(request: Request) -> str:
    headers = ", ".join(f"{name}: {text}" for name, text in request.headers.items())
    return f": {request.method} https://{request.host}{request.target} {headers} {request.body[:2000]!r}"


def _json(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None
