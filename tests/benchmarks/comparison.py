"""The weights of the same jobs after several rows of a table, which must be equal."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .report import table

if TYPE_CHECKING:
    from .processors import Hashes

SHOWN = 12  # digits of a hash


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The hashes that are expected, by the jobs' names, and those of each row.

    `missing` gives the reasons why other rows were not run, `failed` why others failed.
    """

    title: str
    expected: Mapping[str, str]
    found: Mapping[str, Hashes]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Return whether no row failed, and all that were run have the expected weights."""
        return not self.failed and not any(self._differing(row) for row in self.found)

    def text(self) -> str:
        """Return a line for each row, whose one hash is of all jobs, and the hash of each job."""
        rows = [
            [name, row.kernels, _together(row.weights), self._outcome(name)]
            for name, row in self.found.items()
        ]
        rows += [[name, reason] for name, reason in {**self.missing, **self.failed}.items()]
        jobs = [f"  {name}: {sha256}" for name, sha256 in self.expected.items()]
        return "\n".join(
            [
                f"{self.title}\n{table(['', 'kernels', 'weights', 'equal'], rows)}",
                f"weights: the SHA-256 of the weights_sha256 of {len(jobs)} jobs:",
                *jobs,
            ]
        )

    def as_mapping(self) -> dict[str, Any]:
        """Return all hashes, ready for JSON."""
        return dataclasses.asdict(self)

    def _differing(self, row: str) -> list[str]:
        weights = self.found[row].weights
        return [name for name, sha256 in self.expected.items() if weights.get(name) != sha256]

    def _outcome(self, row: str) -> str:
        differing = self._differing(row)
        return f"no: {', '.join(differing)}" if differing else "yes"


def _together(weights: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(weights.values()).encode()).hexdigest()[:SHOWN]
