"""The compiled training of one epoch, and the state that it leaves.

One epoch is one compiled loop over a permutation that is a pure function of (seed, epoch); images are
gathered and scaled inside it. It is called in chunks of some steps, which changes no number, so that a live
line and a signal are served meanwhile. All of the state at an epoch's end is in `state()`. Knows no files and
nothing of processes.
"""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn import cpu
from mnist_cnn.config import Format, Loss, Precision, Schedule
from mnist_cnn.errors import ConfigurationError, TrainingError
from mnist_cnn.result import EpochRow, Progress
from mnist_cnn.training.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.config import TrainConfig
    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

PROGRESS_SECONDS = 0.5
"""How often the training says where it stands, and so how long it takes at most to hear of a signal."""
EVALUATION_BATCH = 250
"""As fast as larger ones, which take more memory: 250 MiB more at 1,000 images of the tutorial's network."""

UNSAVED_DRAWS = {"Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson"}
UNSAVED_DRAWS |= {"RandomPoissonV2", "RandomShuffle", "RandomStandardNormal", "RandomUniform"}
UNSAVED_DRAWS |= {"RandomUniformInt", "TruncatedNormal"}
"""Operations that count their draws within themselves: the stateful ones of TensorFlow's `random_ops`."""


class Trainer:
    """The network, its optimizer and the compiled epoch, on data that stay in memory as uint8."""

    def __init__(self, job: Job, arrays: DataSet) -> None:
        import tensorflow as tf

        from mnist_cnn.training.fast_layers import for_training

        self.job = job
        self.arrays = arrays
        self.precision = effective_precision(job.train.precision)
        self.batch = min(job.train.batch_size, len(arrays.x_train))
        self.steps = math.ceil(len(arrays.x_train) / self.batch)
        policy = "mixed_bfloat16" if self.precision is Precision.bfloat16 else "float32"
        self.model = for_training(self._build(policy))
        self.predict = compiled(self.model)
        self.optimizer = optimizer(job.train, self.steps * job.train.epochs)
        self.optimizer.build(self.model.trainable_variables)
        self.images = tf.constant(arrays.x_train)  # (N, 28, 28, 1) uint8
        self.labels = tf.constant(arrays.y_train)  # (N,) uint8
        self.loss_sum = tf.Variable(0.0, dtype=tf.float64)  # over the images of the epoch so far
        self.correct = tf.Variable(0, dtype=tf.int64)
        self.run_steps = tf.function(self._run_steps, autograph=False)  # whose work takes as long as tracing
        self.graph = self._trace()
        self.chunk = 1

    def run_epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> EpochRow:
        """Train on every image once, then evaluate; return the epoch's row."""
        import tensorflow as tf

        started = time.perf_counter()
        order = tf.constant(permutation(self.job.seed, epoch, len(self.arrays.x_train)))  # (N,) int32
        is_clean = epoch > self.job.train.epochs - self.job.train.unaugmented_epochs
        augment_scale = tf.constant(0.0 if is_clean else 1.0)  # of the augmentation
        self.loss_sum.assign(0.0)
        self.correct.assign(0)
        step = 0
        while step < self.steps:
            chunk_started = time.perf_counter()
            stop = min(step + self.chunk, self.steps)
            self.run_steps(order, tf.constant(step), tf.constant(stop), augment_scale)
            progress = self._progress(epoch, stop, started)
            seconds = time.perf_counter() - chunk_started
            self.chunk = max(1, min(self.steps, round(self.chunk * min(4.0, PROGRESS_SECONDS / seconds))))
            step = stop
            self._check_finite(progress.loss, f"in epoch {epoch}, by step {stop} of {self.steps}")
            on_progress(progress)
        val_loss, val_accuracy, _ = evaluate(self.predict, *self._held_out())
        self._check_finite(val_loss, f"after epoch {epoch}")
        self._check_weights(epoch)
        return EpochRow(
            epoch=epoch,
            loss=progress.loss,
            accuracy=progress.accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(self.optimizer.learning_rate),
            seconds=time.perf_counter() - started,
        )

    def state(self) -> tuple[NDArray[Any], ...]:
        """Return all that decides what comes next, at the end of an epoch, as arrays."""
        return tuple(variable.numpy() for variable in self._variables())

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Take over what `state` returned.

        Raises:
            ConfigurationError: they are the arrays of another network or optimizer.
        """
        variables = self._variables()
        states = [variable.numpy() for variable in variables]
        if len(arrays) == len(states):
            arrays = [_as_it_was(array, state.dtype) for array, state in zip(arrays, states, strict=True)]
        if [(a.shape, a.dtype) for a in arrays] != [(state.shape, state.dtype) for state in states]:
            message = "the checkpoint's arrays are those of another network or optimizer"
            raise ConfigurationError(message, "start a new run")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def float32_model(self) -> keras.Model:
        """Return the network as Keras has it, in float32, with the trained weights."""
        plain = self._build("float32")
        plain.set_weights(self.model.get_weights())
        return plain

    def _trace(self) -> Any:
        """Trace the compiled epoch and return its graph.

        Raises:
            ConfigurationError: the network draws random numbers from a state that cannot be saved.
        """
        import tensorflow as tf

        whole = tf.TensorSpec((), tf.int32)
        order, augment_scale = (
            tf.TensorSpec((len(self.arrays.x_train),), tf.int32),
            tf.TensorSpec((), tf.float32),
        )
        graph = self.run_steps.get_concrete_function(order, whole, whole, augment_scale).graph
        definition = graph.as_graph_def()
        nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
        drawn = sorted({node.op for node in nodes} & UNSAVED_DRAWS)
        if drawn:
            what = ", ".join(drawn)
            message = f"the network draws with TensorFlow's {what}, whose state no checkpoint can hold"
            raise ConfigurationError(
                message, "draw with keras.random, seeded by a keras.random.SeedGenerator"
            )
        return graph

    def _run_steps(self, order: Any, first: Any, stop: Any, augment_scale: Any) -> None:
        """Train on steps `first` to `stop` of the epoch; a `tf.function`, traced once."""
        import tensorflow as tf

        loss_of = loss_function(self.job.train)

        def train_step(step: Any) -> tuple[Any]:
            rows = order[step * self.batch : (step + 1) * self.batch]  # (B,), less in the last step
            images = scale(tf.gather(self.images, rows))  # (B, 28, 28, 1) float32
            images = self._augmented(images, augment_scale)
            labels = tf.cast(tf.gather(self.labels, rows), tf.int32)  # (B,)
            targets = labels
            if self.job.train.loss is Loss.categorical_crossentropy or self.job.train.label_smoothing:
                targets = tf.one_hot(labels, self.job.data.num_classes)  # (B, classes)
            with tf.GradientTape() as tape:
                probabilities = self.model(images, training=True)  # (B, classes)
                loss = tf.reduce_mean(loss_of(targets, probabilities))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            hits = tf.equal(tf.argmax(probabilities, 1, tf.int32), labels)
            self.loss_sum.assign_add(tf.cast(loss, tf.float64) * tf.cast(tf.size(rows), tf.float64))
            self.correct.assign_add(tf.math.count_nonzero(hits))
            return (step + 1,)

        tf.while_loop(lambda step: step < stop, train_step, (first,), parallel_iterations=1)

    def _augmented(self, images: Any, augment_scale: Any) -> Any:
        """Change images, float32 of either format, as the job asks, by its seed and the step."""
        import tensorflow as tf

        from mnist_cnn.training import augmentation

        if not augmentation.is_asked(self.job.train):
            return images
        seed = tf.stack([self.job.seed, tf.cast(self.optimizer.iterations, tf.int64)])
        is_last = self.job.data.format is Format.channels_last
        height, width = images.shape[1:3] if is_last else images.shape[2:4]
        flat = tf.reshape(images, (-1, height, width, 1))
        return tf.reshape(augmentation.distort(flat, self.job.train, seed, augment_scale), tf.shape(images))

    def _progress(self, epoch: int, stop: int, started: float) -> Progress:
        total = len(self.arrays.x_train)
        done = min(stop * self.batch, total)
        rate = done / (time.perf_counter() - started)
        epochs_left = self.job.train.epochs - epoch
        return Progress(
            status="running",
            epoch=epoch,
            epochs=self.job.train.epochs,
            step=stop,
            steps=self.steps,
            loss=float(self.loss_sum.numpy()) / done,
            accuracy=int(self.correct.numpy()) / done,
            images_per_second=rate,
            seconds_left=(total - done + epochs_left * total) / rate,
        )

    def _check_finite(self, loss: float, when: str) -> None:
        if not math.isfinite(loss):
            hint = f"lower train.learning_rate, which is {self.job.train.learning_rate:g}"
            raise TrainingError(f"the loss became {loss} {when}", hint)

    def _check_weights(self, epoch: int) -> None:
        """Refuse weights that are no numbers, which a relu hides from the loss."""
        import numpy as np

        bad = sum(int(not np.isfinite(weight).all()) for weight in self.model.get_weights())
        if bad:
            hint = f"lower train.learning_rate, which is {self.job.train.learning_rate:g}"
            raise TrainingError(
                f"{bad} of the weights' arrays hold NaN or infinity after epoch {epoch}", hint
            )

    def _held_out(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what val_* is measured on: the validation images, or the test set where there are none."""
        if len(self.arrays.x_validation):
            return self.arrays.x_validation, self.arrays.y_validation
        return self.arrays.x_test, self.arrays.y_test

    def _variables(self) -> list[Any]:
        """Return all that decides what comes next: weights, random seeds, optimizer state.

        A network of one's own may use variables that are none of its layers', as Keras' global seed.
        """
        named = [*self.model.variables, *self.optimizer.variables]
        known = {variable.value.ref() for variable in named} | {self.loss_sum.ref(), self.correct.ref()}
        return [*named, *(variable for variable in self.graph.variables if variable.ref() not in known)]

    def _build(self, policy: str) -> keras.Model:
        """Build the network of a dtype policy, each time with the same draws."""
        import keras

        keras.utils.set_random_seed(self.job.seed)
        shape = self.arrays.x_train.shape[1:]
        job = self.job
        return build_model(job.model, shape, job.data.num_classes, job.data.format, policy)


def _as_it_was(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return a checkpoint's array in its dtype: NumPy's files know no bfloat16, and give it back as bytes."""
    is_bytes = array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize
    return array.view(dtype) if is_bytes else array


def optimizer(config: TrainConfig, steps: int) -> Any:
    """Return the Keras optimizer for a training of so many steps, each update one kernel where it can."""
    import keras

    from mnist_cnn.training.fused_optimizers import FUSED
    from mnist_cnn.training.schedule import OneCycle

    rate: Any = config.learning_rate
    if config.schedule is Schedule.one_cycle:
        rate = OneCycle(config.learning_rate, steps, config.warmup)
    if config.optimizer in FUSED:
        return FUSED[config.optimizer](rate)
    return keras.optimizers.get({"class_name": config.optimizer.value, "config": {"learning_rate": rate}})


def loss_function(config: TrainConfig) -> Callable[[Any, Any], Any]:
    """Return a function of targets and probabilities (B, classes) -> losses (B,), in nats."""
    import keras

    if config.label_smoothing:
        return functools.partial(
            keras.losses.categorical_crossentropy, label_smoothing=config.label_smoothing
        )
    loss: Callable[[Any, Any], Any] = keras.losses.get(config.loss.value)
    return loss


def compiled(model: keras.Model) -> Callable[[Any], Any]:
    """Return a function uint8 images (B, H, W, 1) or (B, 1, H, W) -> float32 probabilities (B, classes)."""
    import tensorflow as tf

    def probabilities_of(images: Any) -> Any:
        return tf.cast(model(scale(images), training=False), tf.float32)

    function: Callable[[Any], Any] = tf.function(probabilities_of, autograph=False, reduce_retracing=True)
    return function


def evaluate(
    predict: Callable[[Any], Any], images: NDArray[Any], labels: NDArray[Any]
) -> tuple[float, float, NDArray[Any]]:
    """Return mean cross-entropy in nats, accuracy in [0, 1] and float32 probabilities (N, classes).

    `predict` is what `compiled` returns, `images` its uint8 input (N, ...), `labels` uint8 (N,).
    """
    import numpy as np
    import tensorflow as tf

    starts = range(0, len(images), EVALUATION_BATCH)
    parts = [predict(tf.constant(images[start : start + EVALUATION_BATCH])).numpy() for start in starts]
    probabilities = np.concatenate(parts)
    of_label = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0]
    # Keras clips probabilities at 1e-7 before it takes the logarithm.
    loss = float(-np.log(np.maximum(of_label, 1e-7), dtype=np.float64).mean())
    return loss, float((probabilities.argmax(axis=1) == labels).mean()), probabilities


def scale(images: Any) -> Any:
    """uint8 images -> float32 in [0, 1], in the graph."""
    import tensorflow as tf

    return tf.cast(images, tf.float32) / 255.0


def permutation(seed: int, epoch: int, count: int) -> NDArray[Any]:
    """Return the order (count,) int32 of the training images in an epoch."""
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)


def effective_precision(asked: Precision) -> Precision:
    """Resolve `auto` to bfloat16 where the device that will train computes it natively.

    Of NVIDIA's GPUs those do from compute capability 8.0 on (CUDA C++ Programming Guide, "Arithmetic
    Instructions").
    """
    import tensorflow as tf

    if asked is not Precision.auto:
        return asked
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        is_native = capability >= (8, 0)
    else:
        is_native = cpu.computes_bfloat16()
    return Precision.bfloat16 if is_native else Precision.float32
