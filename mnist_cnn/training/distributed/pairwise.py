"""Adds shards' sums in a fixed order.

However many workers share them, the order is a binary tree over the shards' numbers: (0 + 1) + (2 + 3), and
so on. Each worker adds what it holds; the workers' parts are then added in the same tree.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[Any], ...]


@dataclasses.dataclass(frozen=True)
class Subtree:
    """The sum of `length` shards from `first` on.

    It is a few arrays, added element by element.
    """

    first: int
    length: int
    arrays: Arrays = ()

    def precedes(self, other: Subtree) -> bool:
        """Return whether this and `other` are siblings, in order."""
        is_next = self.first + self.length == other.first
        return is_next and self.length == other.length and self.first % (2 * self.length) == 0

    def plus(self, other: Subtree) -> Subtree:
        """Return the sum; overwrites this one's arrays."""
        for array, more in zip(self.arrays, other.arrays, strict=True):
            array[...] += more
        return dataclasses.replace(self, length=self.length + other.length)


class PairwiseSum:
    """The largest possible subtrees, in the order of shards."""

    def __init__(self) -> None:
        self.subtrees: list[Subtree] = []

    def add(self, subtree: Subtree) -> None:
        """Add the next subtree.

        Overwrites the arrays of those before, but not its own.
        """
        while self.subtrees and self.subtrees[-1].precedes(subtree):
            subtree = self.subtrees.pop().plus(subtree)
        self.subtrees.append(subtree)

    def total(self) -> Arrays:
        """Return the sum of the complete shards."""
        while len(self.subtrees) > 1:
            right, left = self.subtrees.pop(), self.subtrees.pop()
            self.subtrees.append(left.plus(right))
        return self.subtrees[0].arrays


def subtrees(shards: range) -> list[Subtree]:
    """Return consecutive shards' subtrees, without arrays."""
    held = PairwiseSum()
    for shard in shards:
        held.add(Subtree(shard, 1))
    return held.subtrees
