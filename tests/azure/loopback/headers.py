"""Headers of all answers but the blob store's: those of Resource Manager, the data plane and the login."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import TYPE_CHECKING

from .tenancy import LOCATION, LOGIN, MANAGEMENT

if TYPE_CHECKING:
    from .messages import Request, Response

REMAINING = {"GET": ("reads", 11999), "HEAD": ("reads", 11999), "DELETE": ("deletes", 14999)}
"""How many requests of a kind the subscription may still send in this hour; here, the number never falls."""


def added(request: Request, response: Response, seconds: float) -> Response:
    """Return a response with the recorded headers of the host that was asked, after `seconds`."""
    if request.host == LOGIN:
        asked = {name.lower(): text for name, text in request.headers.items()}
        more = {"Cache-Control": "no-store, no-cache", "x-ms-clitelem": "1,0,0,,"}
        if "client-request-id" in asked:
            more["client-request-id"] = asked["client-request-id"]
    else:
        more = {
            "x-ms-response-type": "standard" if response.status < 400 else "error",
            "x-aml-cluster": f"vienna-{LOCATION}-01",
            "x-request-time": f"{seconds:.3f}",
        }
        if request.host == MANAGEMENT:
            more |= _of_resource_manager(request, response)
    return dataclasses.replace(response, headers=(*response.headers, *more.items()))


def _of_resource_manager(request: Request, response: Response) -> dict[str, str]:
    number = str(uuid.uuid4())
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kind, left = REMAINING.get(request.method, ("writes", 1199))
    more = {
        "x-ms-correlation-request-id": number,
        "x-ms-routing-request-id": f"{LOCATION.upper()}:{when}:{number}",
        f"x-ms-ratelimit-remaining-subscription-{kind}": str(left),
        "Request-Context": f"appId=cid-v1:{uuid.UUID(int=0)}",
        "Cache-Control": "no-cache",
        "Pragma": "no-cache",
        "Expires": "-1",
    }
    if response.status < 400 and response.status != 202:
        more["Server-Timing"] = f"traceparent;desc=00-{uuid.UUID(int=0).hex}-{'0' * 16}-01"
    return more
