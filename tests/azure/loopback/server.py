"""Answers every request: injects faults, calls the handler, records, checks against the documents."""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING

from . import spec_check
from .messages import Response, answer
from .recording import UNIMPLEMENTED, Exchange
from .refusals import Refusal, refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .blobs import BlobStore
    from .faults import Fault, Faults
    from .identity import Identity
    from .messages import Request
    from .recording import Recording
    from .routes import Router


class Server:
    """Answers one request at a time, from many threads."""

    def __init__(
        self, router: Router, identity: Identity, blobs: BlobStore, faults: Faults, recording: Recording
    ) -> None:
        self.router = router
        self.identity = identity
        self.blobs = blobs
        self.faults = faults
        self.recording = recording
        self.listeners: list[Callable[[Request], None]] = []
        """Are told of every request as it came, with its headers and its body."""

    def answer(self, request: Request) -> tuple[Response | None, Fault | None]:
        """Answer a request, with the fault that strikes it; None is no answer at all."""
        started = time.monotonic()
        number = self.recording.next_number()
        for log_stream in self.listeners:
            log_stream(request)
        fault = self.faults.for_request(request, number)
        kind = fault.kind if fault else None
        template, bug = self.template(request), ""
        response: Response | None = None
        if fault is not None and kind == "status":
            text = "a fault, as ordered" + (_echo(request) if fault.echoes else "")
            response = refused(request, Refusal(fault.status, "ServiceError", text))
            response = Response(response.status, response.body, (*response.headers, *fault.headers))
        elif kind != "drop":
            response, bug = self._respond(request)
        is_control = request.host != self.blobs.tenancy.blob_host
        complaints: tuple[str, ...] = (bug,) if bug else ()
        if is_control and template != UNIMPLEMENTED and not bug:
            complaints = spec_check.complaints(request, None if kind == "status" else response)
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
                complaints=complaints,
            )
        )
        return shown, fault

    def template(self, request: Request) -> str:
        """Return the template of the row that answers a request; of a blob, its container."""
        if request.host == self.blobs.tenancy.blob_host:
            container = request.path.split("/")[1]
            return f"(blob) /{container.removesuffix('-' + self.blobs.tenancy.workspace_id)}"
        matches = (route.template for route in self.router.routes if route.match(request) is not None)
        return next(matches, UNIMPLEMENTED)

    def _respond(self, request: Request) -> tuple[Response, str]:
        """Return the answer, and what went wrong in this service itself, if anything did."""
        if request.host == self.blobs.tenancy.blob_host:
            return self.blobs.forward(request), ""
        try:
            found = self.router.find(request)
            if found is None:
                return answer({"error": {"code": "NotImplemented", "message": UNIMPLEMENTED}}, 501), ""
            route, named = found
            if route.needs_token:
                self.identity.require_token(named)
            return route.handler(named), ""
        except Refusal as refusal:
            return refused(request, refusal), ""
        except Exception as error:  # noqa: BLE001 - a bug here must fail the check, not hang the client
            bug = f"a bug in answering {request.method} {request.path}: {traceback.format_exc()}"
            return answer({"error": {"code": "Bug", "message": repr(error)}}, 501), bug


def _echo(request: Request) -> str:
    headers = ", ".join(f"{name}: {text}" for name, text in request.headers.items())
    return f": {request.method} https://{request.host}{request.target} {headers} {request.body[:2000]!r}"


def _json(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None
