"""What all answers of Resource Manager for SDK v2 share, as recorded: `systemData`, errors."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from .messages import Json, Request, Response, answer
from .refusals import Refusal, now
from .routes import Route
from .tenancy import LOCATION, MANAGEMENT

Handler = Callable[[Request], Response]


class Inner(Refusal):
    """A refusal of the part that keeps jobs and assets; `inner` names the reason, from the outside in.

    If there are parameters, the message is their format, and the answer has both.
    """

    def __init__(self, status: int, message: str, *inner: str, **parameters: str) -> None:
        super().__init__(status, "UserError", message.format(**parameters) if parameters else message)
        self.inner = inner
        self.format = {"MessageFormat": message, "MessageParameters": parameters} if parameters else {}


def route(method: str, template: str, handler: Handler) -> Route:
    """Return a route whose answers and refusals have the recorded form."""

    def respond(request: Request) -> Response:
        try:
            return handler(request)
        except Refusal as refusal:
            known = refusal if isinstance(refusal, Inner) else _inner(refusal)
            return answer(_error(known), known.status)

    return Route(method, MANAGEMENT, template, respond)


def created(request: Request, document: Json) -> Response:
    """Return the answer to a PUT: 201 with the address of the resource."""
    location = f"https://{MANAGEMENT}{request.path}?api-version={request.query.get('api-version')}"
    return answer(document, 201, Location=location)


def system_data(created_at: str, *, modified: bool = True) -> Json:
    """Return who made a resource, and when; `modified` adds who changed it last."""
    made = {"createdAt": created_at, "createdBy": "Loopback", "createdByType": "Application"}
    changed = {f"lastModified{name.removeprefix('created')}": value for name, value in made.items()}
    return {**made, **(changed if modified else {})}


def _inner(refusal: Refusal) -> Inner:
    """Return a refusal that both SDKs can get, as this part words it."""
    return Inner(refusal.status, refusal.message, refusal.code)


def _error(refusal: Inner) -> Json:
    """Return an error in the recorded shape: the details are in a list of types and values."""
    inner: Json | None = None
    for code in reversed(refusal.inner):
        inner = {"code": code, "innerError": inner}
    operation = {"operation": secrets.token_hex(16), "request": secrets.token_hex(8)}
    more = {
        "ComponentName": "managementfrontend",
        "Correlation": operation,
        "Environment": LOCATION,
        "Location": LOCATION,
        "Time": now(),
        "InnerError": inner,
        **refusal.format,
    }
    listed = [{"type": name, "info": {"value": value}} for name, value in more.items()]
    error = {"code": refusal.code, "message": refusal.message, "details": [], "additionalInfo": listed}
    return {"error": error}
