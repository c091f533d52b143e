"""The compiled training loop of one epoch.

It is one loop over a permutation that depends only on (seed, epoch). It is called for a few steps at a time,
so that progress and signals are handled in between. The number of steps per call does not change the results.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError, TrainingError
from mnist_cnn.result import EpochRow, Progress
from mnist_cnn.training import checkpoint, graphs, metrics
from mnist_cnn.training.distributed.group import ONE_WORKER, Group
from mnist_cnn.training.learner import Learner, scale
from mnist_cnn.training.shards import ShardedSteps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

PROGRESS_SECONDS = 0.5  # target time between two progress reports; a signal is handled no later
FINGERPRINT_STEPS = 4
EVALUATION_BATCH = 250  # as fast as 1,000, which needs 250 MiB more with the tutorial's network


class Trainer(Learner):
    """A learner with its compiled epoch and its state.

    The state decides the next epoch.
    """

    def __init__(self, job: Job, arrays: DataSet, group: Group = ONE_WORKER) -> None:
        import tensorflow as tf

        super().__init__(job, arrays)
        predict = predict_function(self.model, self.data.image_shape, self.probabilities)
        self.evaluate = functools.partial(evaluate, predict, *arrays.held_out, group=group)
        self.run_steps: Any
        if job.train.shards == 1:
            self.run_steps = tf.function(self._run_steps, autograph=False)  # AutoGraph is as slow as tracing
            graph = self.run_steps.get_concrete_function(*self._step_signature()).graph
        else:
            self.run_steps = ShardedSteps(self, group)
            graph = self.run_steps.graph
            graphs.check_calls_no_python(graph, job.train.shards)
        self.variables = self._find_variables(graph)

    def fingerprint(self) -> str:
        """Return a hash of the state after some steps.

        It is the SHA-256, in hex, after the job's first steps. Restores the state. Call it before the first
        epoch. The steps use the compiled function that trains. The last of them is the epoch's last step,
        because its batch may be smaller. Two processes with different fingerprints would end in different
        weights.
        """
        import tensorflow as tf

        before, generators = self.state(), checkpoint.generators()
        order, augment_scale = self._epoch_inputs(1)
        last = self.data.steps - 1
        run_steps = self.run_steps if self.job.train.shards == 1 else self.run_steps.alone
        for first, stop in ((0, min(FINGERPRINT_STEPS - 1, last)), (last, last + 1)):
            run_steps(order, tf.constant(first), tf.constant(stop), augment_scale)
        digest = hashlib.sha256()
        for array in self.state():
            digest.update(array.tobytes())
        self.restore(before)
        checkpoint.set_generators(generators)
        return digest.hexdigest()

    def run_epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> EpochRow:
        """Train on every image once, evaluate, return the row.

        Raises TrainingError if the loss or a weight is not finite.
        """
        import numpy as np
        import tensorflow as tf

        started = time.perf_counter()
        steps = self.data.steps
        order, augment_scale = self._epoch_inputs(epoch)
        self.sums.assign(tf.zeros_like(self.sums))
        first, length = 0, 1  # steps first to first + length are the next call
        while first < steps:
            call_started = time.perf_counter()
            stop = min(first + length, steps)
            self.run_steps(order, tf.constant(first), tf.constant(stop), augment_scale)
            progress = self._progress(epoch, stop, started)
            seconds = time.perf_counter() - call_started
            length = max(1, round(length * min(4.0, PROGRESS_SECONDS / seconds)))
            first = stop
            self._check_loss(progress.loss, f"in epoch {epoch}, by step {stop} of {steps}")
            on_progress(progress)
        val_loss, val_accuracy, probabilities = self.evaluate()
        self._check_loss(val_loss, f"after epoch {epoch}")
        bad = sum(not np.isfinite(weight).all() for weight in self.model.get_weights())
        if bad:  # a relu may hide them from the loss
            raise self._diverged(f"{bad} of the weight arrays contain NaN or infinity after epoch {epoch}")
        losses, correct, images = self.sums.numpy()  # (parts,) each
        return EpochRow(
            epoch=epoch,
            loss=progress.loss,
            accuracy=progress.accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(self.optimizer.learning_rate),
            seconds=time.perf_counter() - started,
            loss_parts=_rounded(losses / images),
            accuracy_parts=_rounded(correct / images),
            metrics=metrics.measure(self.job.train.metrics, self.data.held_out_labels, probabilities),
        )

    def _epoch_inputs(self, epoch: int) -> tuple[Any, Any]:
        """Return an epoch's image order and augmentation scale.

        The order is (N,) int32.
        """
        import tensorflow as tf

        config = self.job.train
        is_augmented = epoch <= config.epochs - config.unaugmented_epochs
        order = permutation(self.job.seed, epoch, self.data.count)
        return tf.constant(order), tf.constant(1.0 if is_augmented else 0.0)

    def _run_steps(self, order: Any, first: Any, stop: Any, augment_scale: Any) -> None:
        """Train on steps `first` to `stop` of the epoch.

        Traced once, as a `tf.function`.
        """
        import tensorflow as tf

        data, parts = self.data, self.sums.shape[1]

        def train_step(step: Any) -> tuple[Any]:
            rows = order[step * data.batch : (step + 1) * data.batch]  # (B,); the last step may have fewer
            gradients, counts = self.gradients(rows, augment_scale, self.optimizer.iterations)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            part = tf.one_hot(step * parts // data.steps, parts, dtype=tf.float64)  # (parts,)
            self.sums.assign_add(counts[:, None] * part)
            return (step + 1,)

        tf.while_loop(lambda step: step < stop, train_step, (first,), parallel_iterations=1)

    def state(self) -> tuple[NDArray[Any], ...]:
        """Return every array that decides the next epoch.

        Call it at the end of an epoch.
        """
        return tuple(variable.numpy() for variable in self.variables)

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Restore what `state` returned.

        Raises:
            ConfigurationError: the arrays belong to a different network or optimizer.
        """
        states = self.state()
        if len(arrays) == len(states):
            arrays = [_restore_dtype(array, state.dtype) for array, state in zip(arrays, states, strict=True)]
        if [(a.shape, a.dtype) for a in arrays] != [(state.shape, state.dtype) for state in states]:
            message = "the checkpoint belongs to a different network or optimizer"
            raise ConfigurationError(message, "start a new run")
        for variable, array in zip(self.variables, arrays, strict=True):
            variable.assign(array)

    def restore_bytes(self, content: bytes) -> None:
        """Restore the `state` of another worker from bytes."""
        import numpy as np

        arrays, offset = [], 0
        for state in self.state():
            array = np.frombuffer(content, state.dtype, state.size, offset)
            arrays.append(array.reshape(state.shape))
            offset += state.nbytes
        self.restore(arrays)

    def _step_signature(self) -> tuple[Any, ...]:
        """Return the types of the arguments of `run_steps`."""
        import tensorflow as tf

        step = tf.TensorSpec((), tf.int32)
        return tf.TensorSpec((self.data.count,), tf.int32), step, step, tf.TensorSpec((), tf.float32)

    def _find_variables(self, graph: Any) -> list[Any]:
        """Return all variables that decide the next epoch.

        They are weights, random seeds, optimizer state and what else a step's graph uses, in that order. A
        custom network may use variables that belong to none of its layers, such as Keras' global seed. One
        that draws random numbers from a state that cannot be saved is refused.
        """
        graphs.check_draws(graph)
        named = [*self.model.variables, *self.optimizer.variables]
        known = {variable.value.ref() for variable in named}
        known.add(self.sums.ref())
        return [
            *named,
            *(variable for variable in graphs.captured_variables(graph) if variable.ref() not in known),
        ]

    def _progress(self, epoch: int, stop: int, started: float) -> Progress:
        total = self.data.count
        loss, correct, done = self.sums.numpy().sum(axis=1).tolist()
        rate = done / (time.perf_counter() - started)
        epochs_left = self.job.train.epochs - epoch
        return Progress(
            status="running",
            epoch=epoch,
            epochs=self.job.train.epochs,
            step=stop,
            steps=self.data.steps,
            loss=loss / done,
            accuracy=correct / done,
            images_per_second=rate,
            seconds_left=(total - done + epochs_left * total) / rate,
        )

    def _check_loss(self, loss: float, when: str) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} {when}")

    def _diverged(self, message: str) -> TrainingError:
        hint = f"lower train.learning_rate, which is {self.job.train.rate:g}"
        return TrainingError(message, hint)


def _rounded(means: NDArray[Any]) -> tuple[float, ...]:
    """Return numbers rounded to four digits.

    A plot can show no more, and files get smaller.
    """
    return tuple(float(f"{mean:.4g}") for mean in means)


def _restore_dtype(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return a checkpoint's array in `dtype`.

    NumPy's files do not know bfloat16 and return raw bytes.
    """
    is_bytes = array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize
    return array.view(dtype) if is_bytes else array


def predict_function(
    model: keras.Model,
    image_shape: tuple[int, ...],
    probabilities: Callable[[Any], Any] = lambda outputs: outputs,
) -> Callable[[Any], Any]:
    """Return a function: images -> class probabilities.

    Images are uint8 (B, *image_shape), probabilities float32 (B, classes). `probabilities` makes them of the
    model's outputs. The function is compiled once for all sizes of batches, so that a worker that gets only
    the last, smaller batch computes as the others do.
    """
    import tensorflow as tf

    def predict(images: Any) -> Any:
        return tf.cast(probabilities(model(scale(images), training=False)), tf.float32)

    signature = [tf.TensorSpec((None, *image_shape), tf.uint8)]
    compiled: Callable[[Any], Any] = tf.function(predict, autograph=False, input_signature=signature)
    return compiled


def evaluate(
    predict: Callable[[Any], Any], images: NDArray[Any], labels: NDArray[Any], group: Group = ONE_WORKER
) -> tuple[float, float, NDArray[Any]]:
    """Return mean cross-entropy, accuracy and probabilities.

    They are in nats, in [0, 1], and float32 (N, classes). `predict` comes from `predict_function`; `images`
    are its uint8 input (N, ...), `labels` uint8 (N,). Each worker of the group predicts a part of the images.
    """
    import numpy as np
    import tensorflow as tf

    batches = math.ceil(len(images) / EVALUATION_BATCH)
    starts = (EVALUATION_BATCH * batch for batch in group.part(batches))
    parts = [predict(tf.constant(images[start : start + EVALUATION_BATCH])).numpy() for start in starts]
    gathered = b"".join(group.all_gather(b"".join(part.tobytes() for part in parts)))
    probabilities = np.frombuffer(gathered, np.float32).reshape(len(images), -1)
    of_label = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0]
    # Keras clips probabilities at 1e-7 before it takes the logarithm.
    loss = float(-np.log(np.maximum(of_label, 1e-7), dtype=np.float64).mean())
    return loss, float((probabilities.argmax(axis=1) == labels).mean()), probabilities


def permutation(seed: int, epoch: int, count: int) -> NDArray[Any]:
    """Return an epoch's image order, (count,) int32."""
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)
