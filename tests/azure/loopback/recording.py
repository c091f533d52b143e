"""The record of all requests and responses, in order: as JSON lines, and as a table of calls."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any

UNIMPLEMENTED = "(not implemented)"


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One request and its response. Bodies are kept if they are JSON and not a blob's."""

    number: int
    method: str
    host: str
    path: str
    query: dict[str, str]
    template: str
    status: int
    bytes_up: int
    bytes_down: int
    seconds: float
    fault: str | None = None
    sent: Any = None
    answered: Any = None
    violations: tuple[str, ...] = ()
    """How it disagrees with documents and recordings, or the traceback of a bug in the service."""


class Recording:
    """All exchanges since the start, also appended to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused_hosts: collections.Counter[str] = collections.Counter()
        self._changed = threading.Condition()
        self._numbers = 0
        self._exchanges: list[Exchange] = []

    def next_number(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers

    def add(self, exchange: Exchange) -> None:
        line = json.dumps(dataclasses.asdict(exchange))
        with self._changed:
            self._exchanges.append(exchange)
            with self.path.open("a") as file:
                file.write(line + "\n")
            self._changed.notify_all()

    def add_refused_host(self, host: str) -> None:
        with self._changed:
            self.refused_hosts[host] += 1

    def exchanges(self) -> list[Exchange]:
        with self._changed:
            return list(self._exchanges)

    def clear(self) -> None:
        """Forget all exchanges and refused hosts; the file keeps the exchanges."""
        with self._changed:
            self._exchanges = []
            self.refused_hosts.clear()

    def wait_for(self, method: str, path: str, timeout: float = 60) -> Exchange:
        """Return the first exchange that matches, once it has happened.

        `path` is a regular expression, searched for in "host/decoded path".

        Raises:
            TimeoutError: it did not happen in time.
        """
        with self._changed:

            def first() -> Exchange | None:
                made = (e for e in self._exchanges if e.method == method)
                return next((e for e in made if re.search(path, e.host + e.path)), None)

            exchange = self._changed.wait_for(first, timeout)
        if exchange is None:
            raise TimeoutError(f"no {method} {path} within {timeout} s")
        return exchange

    def check(self) -> None:
        """Check that every request was implemented, and agrees with the documents and the recordings.

        Raises:
            AssertionError: names the requests that are not.
        """
        exchanges = self.exchanges()
        missing = {f"{e.method} {e.host}{e.path}" for e in exchanges if e.template == UNIMPLEMENTED}
        wrong = {text for exchange in exchanges for text in exchange.violations}
        lines = [f"not implemented: {call}" for call in sorted(missing)]
        lines += sorted(wrong)
        if lines:
            raise AssertionError("\n".join(lines))

    def table(self) -> str:
        """Return the calls by method and template, with their statuses and bytes up and down."""
        rows: dict[tuple[str, str], list[Exchange]] = {}
        for exchange in self.exchanges():
            call = exchange.template if exchange.template != UNIMPLEMENTED else f"501 {exchange.path}"
            rows.setdefault((exchange.method, call), []).append(exchange)
        lines = [f"{'calls':>5}  {'up':>10}  {'down':>10}  call"]
        for (method, call), group in sorted(rows.items(), key=lambda row: row[0][::-1]):
            statuses = collections.Counter(e.status for e in group)
            others = ", ".join(f"{n} x {s or 'dropped'}" for s, n in statuses.items() if not 200 <= s < 300)
            up, down = sum(e.bytes_up for e in group), sum(e.bytes_down for e in group)
            note = f"  ({others})" if others else ""
            lines.append(f"{len(group):>5}  {up:>10}  {down:>10}  {method} {call}{note}")
        total = self.exchanges()
        up, down = sum(e.bytes_up for e in total), sum(e.bytes_down for e in total)
        lines.append(f"{len(total):>5}  {up:>10}  {down:>10}  in all")
        lines += [f"refused host: {host} ({n} times)" for host, n in sorted(self.refused_hosts.items())]
        return "\n".join(lines)
