"""Finds the connected parts of a mask, with NumPy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def large_parts(
    mask: NDArray[np.bool_], strong: NDArray[np.bool_], share: float
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return a mask's large parts, and their boxes.

    Parts are 8-connected; large ones have at least the `share` of the largest part's strong pixels. `strong`
    is a subset of `mask` with at least one True. The boxes are (parts, 4) with top, bottom, left and right.
    """
    rows, columns = mask.shape
    stride = columns + 2  # two empty columns, so that a run never touches the end of the row above
    flat = np.pad(mask, ((0, 0), (0, 2))).ravel()
    edges = np.diff(flat.astype(np.int8), prepend=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # each run of True in a row
    first = np.searchsorted(ends, starts + stride - 1, side="right")  # the runs that it touches below
    touched = np.maximum(np.searchsorted(starts, ends + stride + 1, side="left") - first, 0)
    upper = np.repeat(np.arange(starts.size), touched)
    lower = np.arange(upper.size) + np.repeat(first - (np.cumsum(touched) - touched), touched)
    part = _connect(starts.size, upper, lower)
    strong_before = np.concatenate([[0], np.cumsum(np.pad(strong, ((0, 0), (0, 2))).ravel())])
    weights = np.bincount(part, weights=strong_before[ends] - strong_before[starts])
    kept = weights[part] >= max(1.0, share * weights.max())
    changes = np.zeros(flat.size, np.int8)
    changes[starts[kept]] = 1
    changes[ends[kept]] = -1
    large: NDArray[np.bool_] = np.cumsum(changes, dtype=np.int8).reshape(rows, stride)[:, :columns] > 0
    return large, _boxes(part[kept], starts[kept], ends[kept], stride)


def _boxes(
    part: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp], stride: int
) -> NDArray[np.intp]:
    """Return parts' top, bottom, left and right (parts, 4).

    `part` is each run's part.
    """
    order = np.argsort(part, kind="stable")
    first = np.flatnonzero(np.diff(part[order], prepend=-1))
    rows, left = np.divmod(starts[order], stride)
    right = left + (ends - starts)[order]
    lowest, highest = np.minimum.reduceat, np.maximum.reduceat
    sides = lowest(rows, first), highest(rows, first) + 1, lowest(left, first), highest(right, first)
    return np.stack(sides, axis=1)


def _connect(nodes: int, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the smallest node connected to each node.

    The graph has edges left[i]-right[i].
    """
    smallest = np.arange(nodes)
    while True:
        lower = np.minimum(smallest[left], smallest[right])
        new = smallest.copy()
        np.minimum.at(new, smallest[left], lower)
        np.minimum.at(new, smallest[right], lower)
        while not np.array_equal(new, new[new]):
            new = new[new]
        if np.array_equal(new, smallest):
            return smallest
        smallest = new
