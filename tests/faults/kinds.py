"""The kinds of request in a recorded run, the ways in which one can fail, and the resulting cases."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loopback.faults import Fault
from loopback.recording import UNIMPLEMENTED

if TYPE_CHECKING:
    from loopback.messages import Request

    from .scenario import ScenarioRunner

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
"""How a request fails, by name; the least retried first."""
FIRST, LAST = "first", "last"
_BLOBS = {
    "(blob) data set": r"/azureml-blobstore-[^/]+/data-[^/]+/.+",
    "(blob) code": r"/azureml-blobstore-[^/]+/mnist-cnn-code/.+",
    "(blob) checkpoints": r"/azureml-blobstore-[^/]+/mnist-cnn-checkpoints/.+",
    "(blob) datastore's listing": r"/azureml-blobstore-[^/]+",
    "(blob) log of the run": r"/azureml/ExperimentRun/[^/]+/user_logs/.+",
    "(blob) outputs": r"/azureml/ExperimentRun/[^/]+/outputs/.+",
    "(blob) log of the service's own": r"/azureml/ExperimentRun/[^/]+/[^/]*logs/.+",
    "(blob) snapshot": r"/snapshots/.+",
}
"""Subdivides the blob store's requests, which have one template for each container."""


@dataclasses.dataclass(frozen=True, order=True)
class Kind:
    """Requests of one method and path template."""

    method: str
    template: str

    @classmethod
    def of(cls, method: str, template: str, path: str) -> Kind:
        """Return a request's kind, given the service's template for its path."""
        if template.startswith("(blob)"):
            fits = (name for name, expression in _BLOBS.items() if re.fullmatch(expression, path))
            return cls(method, next(fits, template))
        return cls(method, template)

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request, and whether it came after the end of the run."""

    kind: Kind
    is_late: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestRecorder(Fault):
    """Records every request and fails none."""

    requests: ScenarioRunner
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def fits(self, request: Request) -> bool:
        self.seen.append(Seen(self.requests.kind(request), self.requests.is_over()))
        return False


@dataclasses.dataclass(frozen=True)
class InjectedFault:
    """Which request of a kind fails: the `occurrence`-th; if `is_late`, counted from the run's end."""

    kind: Kind
    which: str
    occurrence: int = 1
    is_late: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchingFault(Fault):
    """Fails the request that `injected_fault` chooses."""

    requests: ScenarioRunner
    injected_fault: InjectedFault

    def fits(self, request: Request) -> bool:
        if self.requests.kind(request) != self.injected_fault.kind:
            return False
        return self.requests.is_over() or not self.injected_fault.is_late


@dataclasses.dataclass(frozen=True)
class Case:
    """One request that fails in one way, in one scenario."""

    scenario: str
    injected_fault: InjectedFault
    way: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.injected_fault.kind}, {self.injected_fault.which}: {self.way}"


@dataclasses.dataclass(frozen=True)
class Observed:
    """A run without faults: its requests in order, and the kinds whose first request was refused."""

    seen: Sequence[Seen]
    refused_at_first: Sequence[Kind] = ()

    def kinds(self) -> set[Kind]:
        return {seen.kind for seen in self.seen if seen.kind.template != UNIMPLEMENTED}

    def counts(self, kind: Kind) -> tuple[int, int]:
        """Return the number of requests of a kind before and after the run's end."""
        late = [seen.is_late for seen in self.seen if seen.kind == kind]
        return len(late) - sum(late), sum(late)


def injected_faults(kind: Kind, observed: Iterable[Observed]) -> Iterator[InjectedFault]:
    """Yield the first and the last request of a kind that several runs had.

    The number of polls differs from run to run, but only before the run's end. So the last request is counted
    from the end. If a kind comes only before the end, its last request is that of the run with the fewest.
    """
    before, after = zip(*(one.counts(kind) for one in observed), strict=True)
    first = InjectedFault(kind, FIRST, 1, is_late=not min(before))
    last = InjectedFault(kind, LAST, min(after) or min(before), is_late=bool(min(after)))
    yield first
    if (last.occurrence, last.is_late) != (first.occurrence, first.is_late):
        yield last


def cases(observed: Mapping[str, Sequence[Observed]]) -> Iterator[Case]:
    """Yield all cases: each kind of request in the first scenario that has it.

    A later scenario repeats the kind only if its first request is refused there, because that is the lookup
    of something that does not exist.
    """
    known: set[Kind] = set()
    for scenario, runs in observed.items():
        here = set[Kind].union(*(run.kinds() for run in runs))
        for kind in sorted(here):
            runs_with = [run for run in runs if sum(run.counts(kind))]
            found = list(injected_faults(kind, runs_with))
            if kind in known:
                is_refused = all(kind in run.refused_at_first for run in runs_with)
                found = [fault for fault in found if fault.which == FIRST and is_refused]
            for fault in found:
                yield from (Case(scenario, fault, way) for way in WAYS)
        known |= here
