"""Injected faults: which requests fail, by method, path and occurrence, and how.

The server and the proxy inject them; handlers do not know about them.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .messages import Request

KINDS = ("status", "drop", "lose-answer", "delay", "truncate")
"""status: an error instead of the handler's answer. drop: the connection closes, and no handler is called.
lose-answer: the handler is called, then the connection closes. delay: the answer comes late.
truncate: half of the body, then the connection closes."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Which requests fail, and how.

    `path` is a regular expression, searched for in "host/decoded path". Of the requests that match, the
    ones from `occurrence` (1 is the first) on fail, `times` of them (0: all that follow). With `echoes`, the
    error's message repeats the request with its address, headers and body, as some servers and proxies do.
    """

    method: str = ".*"
    path: str = ".*"
    occurrence: int = 1
    kind: str = "status"
    times: int = 1
    status: int = 500
    seconds: float = 1.0
    headers: tuple[tuple[str, str], ...] = ()
    echoes: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        re.compile(self.path)

    def fits(self, request: Request) -> bool:
        method = re.fullmatch(self.method, request.method)
        return method is not None and re.search(self.path, request.host + request.path) is not None


class Faults:
    """The faults to inject, each with how many matching requests came so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Fault, int]] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._seen += [(fault, 0) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._seen = []

    def for_request(self, request: Request) -> Fault | None:
        """Count a request, and return the first fault to inject into it, if any."""
        injected = None
        with self._lock:
            for index, (fault, seen) in enumerate(self._seen):
                if not fault.fits(request):
                    continue
                self._seen[index] = (fault, seen + 1)
                past = seen + 1 - fault.occurrence
                if injected is None and past >= 0 and (fault.times == 0 or past < fault.times):
                    injected = fault
        return injected


def read_faults(text: str) -> list[Fault]:
    """Return the faults in a JSON list of objects."""
    rows: list[dict[str, Any]] = json.loads(text)
    return [Fault(**{**row, "headers": tuple(map(tuple, row.get("headers", ())))}) for row in rows]
