"""The kinds of request of a recorded run, the ways in which one can fail, and the cases that they make."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from loopback.faults import Fault
from loopback.recording import UNIMPLEMENTED

if TYPE_CHECKING:
    from loopback.messages import Request

DELAY_SECONDS = 30.0
WAYS: dict[str, dict[str, Any]] = {
    "403": {"status": 403},
    "lost answer": {"kind": "lose-answer"},
    "cut": {"kind": "truncate"},
    "dropped": {"kind": "drop"},
    "500": {"status": 500},
    "429": {"status": 429, "headers": (("Retry-After", "1"),)},
    "delay": {"kind": "delay", "seconds": DELAY_SECONDS},
}
"""How a request fails, by name; those that are retried least first."""
FIRST, LAST = "first", "last"
_BLOBS = {
    "(blob) data set": r"/azureml-blobstore-[^/]+/data-[^/]+/.+",
    "(blob) checkpoints": r"/azureml-blobstore-[^/]+/mnist-cnn-checkpoints/.+",
    "(blob) datastore's listing": r"/azureml-blobstore-[^/]+",
    "(blob) log of the run": r"/azureml/ExperimentRun/[^/]+/user_logs/.+",
    "(blob) outputs": r"/azureml/ExperimentRun/[^/]+/outputs/.+",
    "(blob) log of the service's own": r"/azureml/ExperimentRun/[^/]+/[^/]*logs/.+",
    "(blob) snapshot": r"/snapshots/.+",
}
"""The store has one template for each container, with very different things in it."""


@dataclasses.dataclass(frozen=True, order=True)
class Kind:
    """Requests of one method and path template."""

    method: str
    template: str

    @classmethod
    def of(cls, method: str, template: str, path: str) -> Kind:
        """Return the kind of a request, of which the service knows the template."""
        if template.startswith("(blob)"):
            fits = (name for name, expression in _BLOBS.items() if re.fullmatch(expression, path))
            return cls(method, next(fits, template))
        return cls(method, template)

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


class Requests(Protocol):
    """What tells of a request as it comes in what it is."""

    def kind(self, request: Request) -> Kind:
        """Return its kind."""
        ...

    def is_over(self) -> bool:
        """Tell whether the run has ended by now."""
        ...


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request as it came in, and whether that was after the end of the run."""

    kind: Kind
    is_late: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch(Fault):
    """Fails nothing; takes down every request as it comes in."""

    requests: Requests
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def fits(self, request: Request) -> bool:
        self.seen.append(Seen(self.requests.kind(request), self.requests.is_over()))
        return False


@dataclasses.dataclass(frozen=True)
class Strike:
    """Which request of a kind: the `occurrence`-th, counted from the end of the run on where it `is_late`."""

    kind: Kind
    which: str
    occurrence: int = 1
    is_late: bool = False

    def fault(self, way: str, requests: Requests) -> Fault:
        """Return what makes it fail."""
        return Struck(requests=requests, strike=self, occurrence=self.occurrence, **WAYS[way])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Struck(Fault):
    """Fails the request that a strike chooses."""

    requests: Requests
    strike: Strike

    def fits(self, request: Request) -> bool:
        if self.requests.kind(request) != self.strike.kind:
            return False
        return self.requests.is_over() or not self.strike.is_late


@dataclasses.dataclass(frozen=True)
class Case:
    """A request that fails in one way, in one scenario."""

    scenario: str
    strike: Strike
    way: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.strike.kind}, {self.strike.which}: {self.way}"


@dataclasses.dataclass(frozen=True)
class Observed:
    """A run in which nothing failed: its requests as they came in, and the kinds whose first was refused."""

    seen: Sequence[Seen]
    refused_at_first: Sequence[Kind] = ()

    def as_json(self) -> dict[str, Any]:
        """Return this as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return what `as_json` gave."""
        seen = [Seen(Kind(**one["kind"]), one["is_late"]) for one in value["seen"]]
        return cls(seen, [Kind(**kind) for kind in value["refused_at_first"]])

    def kinds(self) -> set[Kind]:
        return {seen.kind for seen in self.seen if seen.kind.template != UNIMPLEMENTED}

    def counts(self, kind: Kind) -> tuple[int, int]:
        """Return how many requests of a kind there were before the run's end and after it."""
        late = [seen.is_late for seen in self.seen if seen.kind == kind]
        return len(late) - sum(late), sum(late)


def strikes(kind: Kind, observed: Iterable[Observed]) -> Iterator[Strike]:
    """Yield the first and the last request of a kind, as several runs had them.

    How often a run is looked at differs from run to run, but only before its end. So the last request is
    counted from that end on; of a kind that comes only before it, it is that of the run that had fewest.
    """
    before, after = zip(*(one.counts(kind) for one in observed), strict=True)
    first = Strike(kind, FIRST, 1, is_late=not min(before))
    last = Strike(kind, LAST, min(after) or min(before), is_late=bool(min(after)))
    yield first
    if (last.occurrence, last.is_late) != (first.occurrence, first.is_late):
        yield last


def cases(observed: Mapping[str, Sequence[Observed]]) -> Iterator[Case]:
    """Yield all cases: each kind of request in the first scenario that has it.

    In a later one again where it is refused at first there: what fails is then the look that finds nothing.
    """
    known: set[Kind] = set()
    for scenario, runs in observed.items():
        here = set[Kind].union(*(run.kinds() for run in runs))
        for kind in sorted(here):
            runs_with = [run for run in runs if sum(run.counts(kind))]
            found = list(strikes(kind, runs_with))
            if kind in known:
                is_refused = all(kind in run.refused_at_first for run in runs_with)
                found = [strike for strike in found if strike.which == FIRST and is_refused]
            for strike in found:
                yield from (Case(scenario, strike, way) for way in WAYS)
        known |= here
