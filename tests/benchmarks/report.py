"""What the benchmarks share: options, turns, and reports as a table and as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Measure = Callable[[], Iterable[float]]
"""Runs a contestant once and returns one or more measured values."""


def number(default: int, about: str) -> dict[str, Any]:
    """Return the arguments of `add_argument` for an option that takes a whole number above 0."""
    return {"type": count, "default": default, "metavar": "N", "help": f"{about} (default: %(default)s)"}


def count(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


IMAGES = number(60_000, "number of training images")


@dataclasses.dataclass(frozen=True)
class Metric:
    """What is measured, and how a ratio to a reference is called."""

    unit: str
    compared: str
    less_is_better: bool = False
    digits: int = 1


@dataclasses.dataclass(frozen=True)
class Report:
    """Measured values by contestant. `missing` gives the reason why another was not measured."""

    title: str
    metric: Metric
    values: Mapping[str, Sequence[float]]
    references: Sequence[str] = ()
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def ratios(self, name: str) -> dict[str, float]:
        """Compare a contestant's median to each reference that was measured. Above 1 is better, or more."""
        median = statistics.median(self.values[name])
        measured = {
            name: statistics.median(self.values[name]) for name in self.references if name in self.values
        }
        if self.metric.less_is_better:
            return {name: reference / median for name, reference in measured.items()}
        return {name: median / reference for name, reference in measured.items()}

    def text(self) -> str:
        """Return title, heads and a row for each contestant."""
        compared = (f"{self.metric.compared} {name}" for name in self.references if name in self.values)
        heads = [self.metric.unit, "minimum", "median", "maximum", *compared]
        rows = []
        for name, values in self.values.items():
            figures = (min(values), statistics.median(values), max(values))
            ratios = (f"{ratio:.2f}" for ratio in self.ratios(name).values())
            rows.append([name, *(f"{figure:,.{self.metric.digits}f}" for figure in figures), *ratios])
        rows += [[name, reason] for name, reason in self.missing.items()]
        return f"{self.title}\n{table(heads, rows)}"

    def as_mapping(self) -> dict[str, Any]:
        """Return all values, and minimum, median and ratios of each contestant."""
        summaries = {
            name: {"minimum": min(values), "median": statistics.median(values), "ratios": self.ratios(name)}
            for name, values in self.values.items()
        }
        own = {"title": self.title, "unit": self.metric.unit, "compared": self.metric.compared}
        return {**own, "values": self.values, "summaries": summaries, "missing": self.missing, **self.details}


def timed(act: Callable[[], object], times: int = 1) -> list[float]:
    """Call `act` several times; return the seconds of each call."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return seconds


def take_turns(contestants: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Measure each contestant once per round, in reverse order every other round."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            measured = list(contestants[name]())
            values[name] += measured
            print_progress(f"round {number + 1}/{rounds}  {name}  {summary(measured)}")
    return values


def summary(values: Sequence[float], most: int = 8) -> str:
    """Return up to `most` values as they are, else their minimum and median."""
    if len(values) > most:
        return f"minimum {min(values):.4g}, median {statistics.median(values):.4g}"
    return " ".join(f"{value:.4g}" for value in values)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads: first column left-aligned, the others right-aligned.

    A row of two cells is a name and a remark.
    """
    full = [row for row in rows if len(row) == len(heads)]
    widths = [max(len(row[column]) for row in (heads, *full)) for column in range(len(heads))]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows), 0)
    lines = []
    for row in (heads, *rows):
        cells = row[1:] if row not in full and row is not heads else map(str.rjust, row[1:], widths[1:])
        lines.append("  ".join((row[0].ljust(widths[0]), *cells)).rstrip())
    return "\n".join(lines)


def print_progress(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)
