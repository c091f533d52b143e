"""Plays recorded sequences of real calls to a client (v2-playback.json).

All other calls are answered as usual. A sequence that starts with a write begins with it. A read gets the
recorded answers of its address one after the other; the last one repeats, because clients differ in how often
they ask.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import Json, Request, Response
from .tenancy import LOCATION, MANAGEMENT

if TYPE_CHECKING:
    from .tenancy import Tenancy

OPERATION = "00000000-0000-0000-0000-0000000000aa"


@functools.cache
def recorded() -> Json:
    """Return the recorded sequences, and where they come from."""
    loaded: Json = json.loads((Path(__file__).parent / "v2-playback.json").read_text())
    return loaded


class Playback:
    """One sequence, played for the cluster or job `name`."""

    def __init__(self, sequence: str, name: str, tenancy: Tenancy) -> None:
        self._steps: list[Json] = recorded()["sequences"][sequence]["steps"]
        self._values = _values(name, tenancy)
        self._lock = threading.Lock()
        self._played: set[int] = set()
        self.writes = 0
        """How often the client sent the write; in a recording it is sent once."""

    def unplayed(self) -> list[str]:
        """Return the steps that the client did not ask for, as method and status."""
        with self._lock:
            missing = [step for index, step in enumerate(self._steps) if index not in self._played]
        return [f"{step['method']} {step['status']}" for step in missing]

    def answer(self, request: Request) -> Response | None:
        """Return the recorded answer, or None if the sequence has none for this request."""
        if request.host != MANAGEMENT:
            return None
        with self._lock:
            asked = [index for index, step in enumerate(self._steps) if self._is_for(step, request)]
            has_begun = self._steps[0]["method"] == "GET" or 0 in (*self._played, *asked)
            if not asked or not has_begun:
                return None
            index = next((index for index in asked if index not in self._played), asked[-1])
            self._played.add(index)
            self.writes += request.method != "GET"
        return self._response(self._steps[index], request)

    def _is_for(self, step: Json, request: Request) -> bool:
        path = re.escape(self._fill_in(step["path"], request)).replace(r"\*", "[^/]+")
        has_path = re.fullmatch(path, request.path, re.IGNORECASE) is not None
        return has_path and step["method"] == request.method

    def _response(self, step: Json, request: Request) -> Response:
        headers = {**recorded()["headers"], **(step.get("headers") or {})}
        headers["x-ms-response-type"] = "error" if step["status"] >= 400 else "standard"
        body = b""
        if "body" in step:
            headers["Content-Type"] = "application/json; charset=utf-8"
            body = self._fill_in(json.dumps(step["body"]), request).encode()
        filled = tuple((name, self._fill_in(text, request)) for name, text in headers.items())
        return Response(step["status"], body, filled)

    def _fill_in(self, text: str, request: Request) -> str:
        values = {**self._values, "api_version": request.query.get("api-version", "")}
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def _values(name: str, tenancy: Tenancy) -> dict[str, str]:
    return {
        "WS": tenancy.workspace_path,
        "group": tenancy.workspace_path.partition("/providers/")[0],
        "subscription": tenancy.subscription,
        "workspace": tenancy.workspace,
        "workspace_id": tenancy.workspace_id,
        "location": LOCATION,
        "operation": OPERATION,
        "name": name,
    }
