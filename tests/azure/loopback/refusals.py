"""How Azure refuses a request: an exception for handlers, and the shapes of error bodies.

The data plane, Resource Manager, model management and the blob store each use a different shape.
"""

from __future__ import annotations

import datetime as dt
import secrets
from xml.sax.saxutils import escape

from .messages import Json, Request, Response, answer
from .tenancy import BLOB_SUFFIX, LOCATION, MANAGEMENT

NOT_FOUND = 404
COMPONENTS = {"execution": "execution", "metric": "metric", "artifact": "artifact", "content": "content"}
"""What answers which part of the data plane; only run-history's own name was recorded."""


class Refusal(Exception):  # noqa: N818 - a refusal is the right response, not an error of this service
    """The service refuses a request; `code` is Azure's code for the reason.

    The data plane also names the message's `form`, "Run {runId} was not found", and its `parameters`.
    """

    def __init__(
        self, status: int, code: str, message: str, form: str | None = None, **parameters: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.form = form
        self.parameters = parameters


def run_not_found(run_id: str) -> Refusal:
    """Return the refusal of a request for an unknown run, in the words that were recorded."""
    form = "Run {runId} was not found"
    return Refusal(404, "UserError", form.format(runId=f"runId={run_id}"), form, runId=run_id)


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
        return answer({"error": _arm_error(refusal)}, refusal.status)
    component = COMPONENTS.get(request.path.split("/")[1], "run-history")
    return answer(data_plane_error(refusal, component), refusal.status)


def _arm_error(refusal: Refusal) -> Json:
    inner = "NotFoundError" if refusal.status == NOT_FOUND else refusal.code
    more = {
        "ComponentName": "managementfrontend",
        "Correlation": {"operation": secrets.token_hex(16), "request": secrets.token_hex(8)},
        "Environment": LOCATION,
        "Location": LOCATION,
        "Time": now(),
        "InnerError": {"code": inner, "innerError": None},
    }
    listed = [{"type": name, "info": {"value": value}} for name, value in more.items()]
    return {"code": refusal.code, "message": refusal.message, "details": [], "additionalInfo": listed}


def data_plane_error(refusal: Refusal, component: str) -> Json:
    """Return an error in the data plane's shape, with the members of the recorded one."""
    outer = refusal.code if refusal.code in {"ServiceError", "UserError", "TransientError"} else "UserError"
    inner = "NotFoundError" if refusal.status == NOT_FOUND else refusal.code
    return {
        "error": {
            "code": outer,
            "severity": None,
            "message": refusal.message,
            "messageFormat": refusal.form or refusal.message,
            "messageParameters": refusal.parameters,
            "referenceCode": None,
            "detailsUri": None,
            "target": None,
            "details": [],
            "innerError": {"code": inner, "innerError": None},
            "debugInfo": None,
            "additionalInfo": None,
        },
        "correlation": {"operation": secrets.token_hex(16), "request": secrets.token_hex(8)},
        "environment": LOCATION,
        "location": LOCATION,
        "time": now(),
        "componentName": component,
        "statusCode": refusal.status,
    }


def now() -> str:
    """Return the current time in Azure's format."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0+00:00")
