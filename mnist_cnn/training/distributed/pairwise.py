"""Adds the sums of a batch's shards in one order, however many workers share them.

The order is a binary tree over the shards' numbers: (0 + 1) + (2 + 3), and so on. Each worker adds what it
holds; the workers' parts are then added in the same tree.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[Any], ...]


@dataclasses.dataclass(frozen=True)
class Subtree:
    """The sum of `length` shards from shard `first` on: a few arrays, added element by element."""

    first: int
    length: int
    arrays: Arrays = ()

    def precedes(self, other: Subtree) -> bool:
        """Return whether this is the left, and `other` the right half of a larger subtree."""
        is_next = self.first + self.length == other.first
        return is_next and self.length == other.length and self.first % (2 * self.length) == 0

    def plus(self, other: Subtree) -> Subtree:
        """Return the sum; the arrays of this one are overwritten."""
        for array, more in zip(self.arrays, other.arrays, strict=True):
            array[...] += more
        return dataclasses.replace(self, length=self.length + other.length)


class PairwiseSum:
    """Subtrees, in the order of their shards, each as large as the tree allows."""

    def __init__(self) -> None:
        self.subtrees: list[Subtree] = []

    def add(self, subtree: Subtree) -> None:
        """Add the subtree that follows those before; overwrites their arrays, but not its own."""
        while self.subtrees and self.subtrees[-1].precedes(subtree):
            subtree = self.subtrees.pop().plus(subtree)
        self.subtrees.append(subtree)

    def total(self) -> Arrays:
        """Return the sum of all shards, once they are complete."""
        while len(self.subtrees) > 1:
            right, left = self.subtrees.pop(), self.subtrees.pop()
            self.subtrees.append(left.plus(right))
        return self.subtrees[0].arrays


def subtrees(shards: range) -> list[Subtree]:
    """Return the subtrees, without arrays, that are left of some shards that follow each other."""
    held = PairwiseSum()
    for shard in shards:
        held.add(Subtree(shard, 1))
    return held.subtrees
