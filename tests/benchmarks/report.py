"""Contestants that take turns, and what was measured of them: a table, and the same as JSON."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

Measure = Callable[[], Iterable[float]]
"""Runs a contestant once; returns what was measured of it, which may be several values."""


class Table(Protocol):
    """What a benchmark returns."""

    def text(self) -> str:
        """Return the table, as lines for people."""
        ...

    def as_mapping(self) -> dict[str, Any]:
        """Return every value that was measured, as JSON holds it."""
        ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is measured: how a ratio to a reference is named, and whether less of it is better."""

    unit: str
    compared: str
    less_is_better: bool = False
    digits: int = 1

    def ratio(self, median: float, of_reference: float) -> float:
        """Compare two medians; above 1 is better, or more where neither is better."""
        return of_reference / median if self.less_is_better else median / of_reference


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured of each contestant, in its order; `missing` says of others why they are not there."""

    title: str
    kind: Kind
    values: Mapping[str, Sequence[float]]
    references: Sequence[str] = ()
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def ratios(self, name: str) -> dict[str, float]:
        """Compare a contestant's median with that of each reference that was measured."""
        median = statistics.median(self.values[name])
        return {
            reference: self.kind.ratio(median, statistics.median(self.values[reference]))
            for reference in self.references
            if reference in self.values
        }

    def text(self) -> str:
        """Return title, heads and a row for each contestant."""
        references = [name for name in self.references if name in self.values]
        compared = (f"{self.kind.compared} {name}" for name in references)
        heads = [self.kind.unit, "minimum", "median", "maximum", *compared]
        rows = []
        for name, values in self.values.items():
            figures = (min(values), statistics.median(values), max(values))
            ratios = (f"{ratio:.2f}" for ratio in self.ratios(name).values())
            rows.append([name, *(f"{figure:,.{self.kind.digits}f}" for figure in figures), *ratios])
        rows += [[name, reason] for name, reason in self.missing.items()]
        return f"{self.title}\n{table(heads, rows)}"

    def as_mapping(self) -> dict[str, Any]:
        """Return all values, and of each contestant minimum, median and ratios."""
        summaries = {
            name: {"minimum": min(values), "median": statistics.median(values), "ratios": self.ratios(name)}
            for name, values in self.values.items()
        }
        return {
            "title": self.title,
            "unit": self.kind.unit,
            "compared": self.kind.compared,
            "values": {name: list(values) for name, values in self.values.items()},
            "summaries": summaries,
            "missing": dict(self.missing),
            **self.details,
        }


def take_turns(contestants: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure each contestant once a round, every other round in reverse; say on stderr what came of it."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            measured = list(contestants[name]())
            values[name] += measured
            say(f"round {number + 1}/{rounds}  {name}  {summary(measured)}")
    return values


def summary(values: Sequence[float], most: int = 8) -> str:
    """Return a few values as they are, of many the minimum and the median."""
    if len(values) > most:
        return f"minimum {min(values):.4g}, median {statistics.median(values):.4g}"
    return " ".join(f"{value:.4g}" for value in values)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads: the first column to the left, figures to the right.

    A row of two is a name and a remark.
    """
    full = [row for row in rows if len(row) == len(heads)]
    widths = [max(len(row[column]) for row in (heads, *full)) for column in range(len(heads))]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows), 0)
    lines = []
    for row in (heads, *rows):
        cells = row[1:] if row not in full and row is not heads else map(str.rjust, row[1:], widths[1:])
        lines.append("  ".join((row[0].ljust(widths[0]), *cells)).rstrip())
    return "\n".join(lines)


def say(line: str) -> None:
    """Tell on stderr how far it is."""
    print(line, file=sys.stderr, flush=True)
