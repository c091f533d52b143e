"""How Azure refuses a request: an exception for handlers, and the shapes of error bodies.

The data plane, Resource Manager, model management and the blob store each use a different shape.
"""

from __future__ import annotations

import datetime as dt
from xml.sax.saxutils import escape

from .messages import Json, Request, Response, answer
from .tenancy import BLOB_SUFFIX, LOCATION, MANAGEMENT


class Refusal(Exception):  # noqa: N818 - a refusal is the right response, not an error of this service
    """The service refuses a request; `code` is Azure's code for the reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def refused(request: Request, refusal: Refusal) -> Response:
    """Return a refusal in the shape that the addressed part of Azure uses."""
    if request.host.endswith(BLOB_SUFFIX):
        text = f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message></Error>"
        kind = ("Content-Type", "application/xml")
        return Response(refusal.status, text.encode(), (kind, ("x-ms-error-code", refusal.code)))
    if request.path.startswith("/modelmanagement/"):
        flat = {"code": refusal.code, "statusCode": refusal.status, "message": refusal.message, "details": []}
        return answer(flat, refusal.status)
    if request.host == MANAGEMENT or request.path.startswith("/rp/"):
        error = {"code": refusal.code, "message": refusal.message, "details": []}
        return answer({"error": error}, refusal.status)
    return answer(data_plane_error(refusal.code, refusal.message), refusal.status)


def data_plane_error(code: str, message: str, inner: str | None = None) -> Json:
    """Return an error in the data plane's shape, which is also the shape of a failed run's error."""
    outer = code if code in {"ServiceError", "UserError", "TransientError"} else "UserError"
    return {
        "error": {
            "code": outer,
            "message": message[:3000],
            "messageFormat": None,
            "messageParameters": {},
            "details": [],
            "innerError": {"code": inner or code, "innerError": None},
        },
        "correlation": {},
        "environment": LOCATION,
        "location": LOCATION,
        "time": now(),
        "componentName": "execution-worker",
    }


def now() -> str:
    """Return the current time in Azure's format."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0+00:00")
