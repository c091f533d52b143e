"""Training steps whose batches are cut into shards.

Several workers may share the shards. Each shard is computed as if it were a batch: its gradients, the changes
of its moving statistics, its random draws. Gradients and changes are weighted by the shard's share of the
images and added in the order of `pairwise`. All workers then apply the same sums, so their weights stay
equal. Nothing that is computed depends on the number of workers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import graphs
from mnist_cnn.training.distributed.group import ONE_WORKER, Group
from mnist_cnn.training.distributed.pairwise import PairwiseSum, Subtree

if TYPE_CHECKING:
    from mnist_cnn.training.learner import Learner

SEED_STATE = "seed_generator_state"
"""Keras' name of a SeedGenerator's variable.

It is (2,) integers: a seed, and a counter of its draws.
"""

HALF = 1 << 32
SEED_STRIDE = 2_654_435_761
"""Distance between two shards' seeds.

It is 2**32 by the golden ratio, so that shards' seeds are not those of other layers.
"""


class ShardedSteps:
    """A learner's steps, shard by shard.

    `group` are the workers that share the shards.
    """

    def __init__(self, learner: Learner, group: Group) -> None:
        import tensorflow as tf

        self.learner, self.group = learner, group
        self.shards = learner.job.train.shards
        scalar = tf.TensorSpec((), tf.float32)
        signature = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int64), scalar, scalar)
        probe = tf.function(learner.gradients, autograph=False)
        draw = tf.TensorSpec((), tf.int64)
        traced = probe.get_concrete_function(signature[0], scalar, draw)
        self.graph = traced.graph
        pairs = zip(learner.model.trainable_variables, traced.structured_outputs[0], strict=True)
        self.trained = [variable for variable, gradient in pairs if gradient is not None]
        self.seeds, self.moving = _find_state(learner, self.graph)
        self._compute_shard = tf.function(self._shard, autograph=False, input_signature=signature)
        self._apply_sums = tf.function(self._apply, autograph=False)

    def __call__(self, order: Any, first: Any, stop: Any, augment_scale: Any) -> None:
        """Train on some steps, with the other workers.

        The steps are `first` to `stop` of an epoch.
        """
        self._run(self.group, order, first, stop, augment_scale)

    def alone(self, order: Any, first: Any, stop: Any, augment_scale: Any) -> None:
        """Train on some steps, without other workers.

        The steps are `first` to `stop` of an epoch.
        """
        self._run(ONE_WORKER, order, first, stop, augment_scale)

    def _run(self, group: Group, order: Any, first: Any, stop: Any, augment_scale: Any) -> None:
        """Train on steps `first` to `stop` with a group.

        `order` is (N,) int32.
        """
        import tensorflow as tf

        data, parts = self.learner.data, self.learner.sums.shape[1]
        for step in range(int(first), int(stop)):
            rows = order[step * data.batch : (step + 1) * data.batch]
            count, held = len(rows), PairwiseSum()
            for shard in group.part(self.shards):
                start, end = (count * number // self.shards for number in (shard, shard + 1))
                # The last batch may have fewer images than shards: an empty one computes any image.
                part = rows[start:end] if start < end else rows[:1]
                weight = tf.constant((end - start) / count)
                flat, counts = self._compute_shard(part, tf.constant(shard, tf.int64), weight, augment_scale)
                held.add(Subtree(shard, 1, (flat.numpy(), counts.numpy())))
            flat, counts = group.all_reduce(held, self.shards)
            curve_point = tf.constant(step * parts // data.steps)
            self._apply_sums(tf.constant(flat), tf.constant(counts), curve_point)

    def _shard(self, rows: Any, shard: Any, weight: Any, augment_scale: Any) -> tuple[Any, Any]:
        """Return a shard's sums; the variables don't change.

        `rows` is (B,) int32. The sums are gradients and changes of the moving statistics times `weight`, (P,)
        float32, and float64 numbers: the sum of the losses, correct predictions, images, and the seeds' next
        state, which is that of shard 0, in halves of 32 bits.
        """
        import tensorflow as tf

        offsets = [tf.cast(tf.stack([shard * SEED_STRIDE, 0]), variable.dtype) for variable in self.seeds]
        before = [variable.read_value() for variable in self.moving]
        seeds = [variable.read_value() for variable in self.seeds]
        for variable, seed, offset in zip(self.seeds, seeds, offsets, strict=True):
            variable.assign(seed + offset)
        draw = tf.cast(self.learner.optimizer.iterations, tf.int64) * self.shards + shard
        gradients, counts = self.learner.gradients(rows, augment_scale, draw)
        gradients = [gradient for gradient in gradients if gradient is not None]
        changes = [variable.read_value() - old for variable, old in zip(self.moving, before, strict=True)]
        is_first = tf.cast(tf.equal(shard, 0), tf.float64)
        next_seeds = [_halves(variable.read_value()) * is_first for variable in self.seeds]
        for variable, old in zip((*self.moving, *self.seeds), (*before, *seeds), strict=True):
            variable.assign(old)
        numbers = [tf.cast(tf.reshape(values, (-1,)), tf.float32) for values in (*gradients, *changes)]
        is_filled = weight > 0
        flat = tf.where(is_filled, tf.concat(numbers, 0) * weight, 0.0)
        return flat, tf.concat([tf.where(is_filled, counts, 0), *next_seeds], 0)

    def _apply(self, flat: Any, counts: Any, curve_point: Any) -> None:
        """Apply a batch's sums to all variables.

        They are weights, moving statistics, seeds and the epoch's sums.
        """
        import tensorflow as tf

        learner = self.learner
        variables = self.trained
        sizes = [math.prod(variable.shape) for variable in (*variables, *self.moving)]
        pieces = tf.split(flat, sizes)
        gradients = [
            tf.reshape(piece, variable.shape)
            for piece, variable in zip(pieces[: len(variables)], variables, strict=True)
        ]
        learner.optimizer.apply(gradients, variables)
        for piece, variable in zip(pieces[len(variables) :], self.moving, strict=True):
            variable.assign_add(tf.cast(tf.reshape(piece, variable.shape), variable.dtype))
        counts, *next_seeds = tf.split(counts, [3, *[4] * len(self.seeds)])
        for variable, halves in zip(self.seeds, next_seeds, strict=True):
            high, low = tf.split(tf.cast(halves, tf.int64), 2)
            variable.assign(tf.cast(high * HALF + low, variable.dtype))
        part = tf.one_hot(curve_point, learner.sums.shape[1], dtype=tf.float64)  # (parts,)
        learner.sums.assign_add(counts[:, None] * part)


def _halves(seed: Any) -> Any:
    """Return integers' upper, then lower halves, float64 (4,).

    The integers are (2,). float64 is exact.
    """
    import tensorflow as tf

    numbers = tf.cast(seed, tf.int64)
    return tf.cast(tf.concat([numbers // HALF, numbers % HALF], 0), tf.float64)


def _find_state(learner: Learner, graph: Any) -> tuple[list[Any], list[Any]]:
    """Return a step's seeds and moving statistics.

    Raises ConfigurationError if it may change another kind of state, because the shards' states could not be
    combined.
    """
    paths = {variable.value.ref(): variable.path for variable in learner.model.variables}
    known = {variable.value.ref() for variable in learner.model.trainable_variables}
    known.add(learner.optimizer.iterations.value.ref())
    changed = {variable.ref() for variable in graphs.changed_variables(graph)}
    seeds, moving = [], []
    for variable in graphs.captured_variables(graph):
        name = paths.get(variable.ref(), variable.name)
        if SEED_STATE in name and variable.dtype.is_integer and variable.shape == (2,):
            seeds.append(variable)
        elif variable.ref() in known or variable.ref() not in changed:
            continue
        elif variable.dtype.is_floating:
            moving.append(variable)
        else:
            message = f"train.shards={learner.job.train.shards} cannot combine the network's {name}"
            hint = "shards combine weights, floating point statistics and keras.random.SeedGenerator only"
            raise ConfigurationError(f"{message}, which is {variable.dtype.name}", hint)
    return seeds, moving
