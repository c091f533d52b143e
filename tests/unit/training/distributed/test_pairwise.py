"""The sums of shards don't depend on the number of workers that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cnn.training.distributed.pairwise import PairwiseSum, Subtree, subtrees

LENGTH = 1000


def vectors(shards: int) -> list[np.ndarray]:
    """Numbers whose sum depends on the order of the additions."""
    drawn = np.random.default_rng(shards)
    return [
        (drawn.normal(size=LENGTH) * 10.0 ** drawn.integers(-6, 6, LENGTH)).astype(np.float32)
        for _ in range(shards)
    ]


def held_by(shards: range, values: list[np.ndarray]) -> PairwiseSum:
    held = PairwiseSum()
    for shard in shards:
        held.add(Subtree(shard, 1, (values[shard].copy(),)))
    return held


@pytest.mark.parametrize("shards", range(1, 25))
def test_every_number_of_workers_gives_the_same_bits(shards: int) -> None:
    values = vectors(shards)
    (alone,) = held_by(range(shards), values).total()

    for workers in (n for n in range(1, shards + 1) if shards % n == 0):
        together = PairwiseSum()
        for rank in range(workers):
            part = range(rank * shards // workers, (rank + 1) * shards // workers)
            held = held_by(part, values)
            assert [(s.first, s.length) for s in held.subtrees] == [
                (s.first, s.length) for s in subtrees(part)
            ]
            for subtree in held.subtrees:
                together.add(subtree)
        (total,) = together.total()
        assert total.tobytes() == alone.tobytes(), workers


def test_the_order_is_a_binary_tree() -> None:
    a, b, c, d, e, f = (values.copy() for values in vectors(6))
    expected = ((a + b) + (c + d)) + (e + f)

    (total,) = held_by(range(6), [a, b, c, d, e, f]).total()

    assert total.tobytes() == expected.tobytes()
    assert total.tobytes() != (a + b + c + d + e + f).tobytes()  # so the order can be seen


def test_a_worker_sends_few_subtrees() -> None:
    assert [(s.first, s.length) for s in subtrees(range(8, 16))] == [(8, 8)]
    assert [(s.first, s.length) for s in subtrees(range(3, 6))] == [(3, 1), (4, 2)]
