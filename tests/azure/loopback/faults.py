"""Failing chosen requests on purpose: by their number, or by method, pattern and occurrence.

A fault is carried out by the proxy; the handlers do not know of it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .messages import Request

KINDS = ("status", "drop", "lose-answer", "delay", "truncate")
"""status: an error instead of an answer; drop: the connection closed before anything is done;
lose-answer: done, then closed; delay: done and answered late; truncate: half of the body, then closed."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Which requests fail, and how.

    `path` is a regular expression, searched for in host and decoded path ("host/path"). Of the requests
    that fit, those from `occurrence` (1 is the first) on fail, `times` of them (0: all that follow).
    `number`, where given, is the request's number since the start instead. An error that `echoes` repeats
    the request with its address, headers and body, as the words of some servers and proxies do.
    """

    method: str = ".*"
    path: str = ".*"
    occurrence: int = 1
    kind: str = "status"
    times: int = 1
    number: int | None = None
    status: int = 500
    seconds: float = 1.0
    headers: tuple[tuple[str, str], ...] = ()
    echoes: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a fault's kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        re.compile(self.path)

    def fits(self, request: Request) -> bool:
        method = re.fullmatch(self.method, request.method)
        return method is not None and re.search(self.path, request.host + request.path) is not None


class Faults:
    """The faults that wait for their requests."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Fault, int]] = [(fault, 0) for fault in faults]

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._seen += [(fault, 0) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._seen = []

    def for_request(self, request: Request, number: int) -> Fault | None:
        """Count a request, and return the fault that strikes it."""
        struck = None
        with self._lock:
            for index, (fault, seen) in enumerate(self._seen):
                if fault.number is not None:
                    due = fault.number == number
                elif fault.fits(request):
                    self._seen[index] = (fault, seen + 1)
                    late = fault.times and seen + 1 >= fault.occurrence + fault.times
                    due = seen + 1 >= fault.occurrence and not late
                else:
                    due = False
                if due and struck is None:
                    struck = fault
        return struck


def read_faults(text: str) -> list[Fault]:
    """Read faults from JSON text, a list of objects, or from the file that the text names."""
    rows: list[dict[str, Any]] = json.loads(text if text.lstrip().startswith("[") else Path(text).read_text())
    return [Fault(**{**row, "headers": tuple(map(tuple, row.get("headers", ())))}) for row in rows]
