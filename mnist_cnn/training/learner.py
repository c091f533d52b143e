"""One training step: the gradients of a batch.

The network and its loss are part of it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

from mnist_cnn import cpu
from mnist_cnn.config import Format, Loss, Numerics, Precision, Schedule
from mnist_cnn.training.class_weights import weights_of
from mnist_cnn.training.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.config import TrainConfig
    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

CURVE_POINTS = 40  # at most, of the training in all its epochs; but one for each epoch at least


class Learner:
    """A job's network, optimizer and images.

    The images stay in memory as uint8.
    """

    def __init__(self, job: Job, arrays: DataSet) -> None:
        import tensorflow as tf

        self.job = job
        count, *shape = arrays.x_train.shape
        images, labels = tf.constant(arrays.x_train), tf.constant(arrays.y_train)
        batch = min(job.train.batch_size, count)
        weights = weights_of(job.train.class_weights, arrays.y_train, job.data.classes)
        self.data = _TrainingData(images, labels, tuple(shape), count, batch, arrays.held_out[1], weights)
        self.model = self._training_model()
        self.optimizer = optimizer(job.train, self.data.steps * job.train.epochs)
        self.optimizer.build(self.model.trainable_variables)
        # Sum of the losses, number of correct predictions and of images, in each part of the epoch so far.
        parts = max(1, min(CURVE_POINTS // job.train.epochs, self.data.steps))
        self.sums = tf.Variable(tf.zeros((3, parts), tf.float64))

    @property
    def precision(self) -> Precision:
        """Return float32 or bfloat16, never auto."""
        configured = self.job.train.precision
        return configured.for_exact if self.is_exact else effective_precision(configured)

    @property
    def is_exact(self) -> bool:
        """Return whether no sum rounds."""
        return self.job.train.numerics is Numerics.exact

    def gradients(self, rows: Any, augment_scale: Any, draw: Any) -> tuple[list[Any], Any]:
        """Return the mean loss's gradients and the counts.

        `rows`, (B,) int32, are the images. The counts, (3,) float64, are the sum of the losses, correct
        predictions and images. The number `draw` and the job's seed decide the augmentation.
        """
        import tensorflow as tf

        images = scale(tf.gather(self.data.images, rows))  # (B, 28, 28, 1) float32
        images = self.augment(images, augment_scale, draw)
        labels = tf.cast(tf.gather(self.data.labels, rows), tf.int32)  # (B,)
        with tf.GradientTape() as tape:
            loss, probabilities = self._loss(labels, self.model(images, training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        hits = tf.equal(tf.argmax(probabilities, 1, tf.int32), labels)  # (B,) bool
        size, correct = (tf.cast(n, tf.float64) for n in (tf.size(hits), tf.math.count_nonzero(hits)))
        return gradients, tf.stack([tf.cast(loss, tf.float64) * size, correct, size])

    def _loss(self, labels: Any, outputs: Any) -> tuple[Any, Any]:
        """Return the mean loss () and probabilities (B, classes)."""
        import tensorflow as tf

        config, classes = self.job.train, self.job.data.classes
        weights = self.data.class_weights
        of_image = tf.gather(weights, labels) if weights is not None else None  # (B,)
        if self.is_exact:
            from mnist_cnn.training.exact.loss import cross_entropy

            smoothing = config.label_smoothing
            targets = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes  # (B, classes)
            return cross_entropy(targets, outputs, of_image)
        is_one_hot = config.loss is Loss.categorical_crossentropy or config.label_smoothing
        targets = tf.one_hot(labels, classes) if is_one_hot else labels  # (B, classes) or (B,)
        losses = loss_function(config)(targets, outputs)
        return tf.reduce_mean(losses if of_image is None else losses * of_image), outputs

    def probabilities(self, outputs: Any) -> Any:
        """Return the probabilities of the model's outputs.

        An exact model's outputs are logits.
        """
        if not self.is_exact:
            return outputs
        from mnist_cnn.training.exact import rounding

        return rounding.softmax(outputs)[0]

    def augment(self, images: Any, augment_scale: Any, draw: Any) -> Any:
        """Return the images, distorted.

        They are float32 of either format. The job's seed and `draw` decide how.
        """
        import tensorflow as tf

        from mnist_cnn.training import augmentation

        config = self.job.train
        if not any((config.rotation, config.zoom, config.shear, config.shift)):
            return images
        seed = tf.stack([self.job.seed, tf.cast(draw, tf.int64)])
        is_last = self.job.data.format is Format.channels_last
        height, width = images.shape[1:3] if is_last else images.shape[2:4]
        flat = tf.reshape(images, (-1, height, width, 1))
        distorted = augmentation.distort(flat, config, seed, augment_scale, is_exact=self.is_exact)
        return tf.reshape(distorted, tf.shape(images))

    def float32_model(self) -> keras.Model:
        """Return the trained network as plain Keras, in float32."""
        plain = self._build("float32")
        plain.set_weights(self.model.get_weights())
        return plain

    def _training_model(self) -> keras.Model:
        """Return the network with exact or fast layers."""
        if self.is_exact:
            from mnist_cnn.training.exact.layers import with_exact_layers
            from mnist_cnn.training.exact.products import Arithmetic

            arithmetic = Arithmetic.choose(self.job.train.exact_bits, self.precision, self.data.batch)
            return with_exact_layers(self._build("float32"), arithmetic)
        from mnist_cnn.training.fast_layers import with_fast_layers

        is_float32 = self.precision is Precision.float32
        return with_fast_layers(self._build("float32" if is_float32 else "mixed_bfloat16"))

    def _build(self, policy: str) -> keras.Model:
        """Build the network with a dtype policy.

        Every call draws the same initial weights.
        """
        import keras

        keras.utils.set_random_seed(self.job.seed)
        data = self.job.data
        return build_model(self.job.model, self.data.image_shape, data.classes, data.format, policy)


@dataclasses.dataclass(frozen=True)
class _TrainingData:
    """Training images and labels, divided into steps.

    Images are uint8 (N, ...), labels uint8 (N,), both tensors. `held_out_labels`, uint8 (M,), are those of
    the images that are evaluated after each epoch. `class_weights` are float32 (classes,), or None if all
    images count the same.
    """

    images: Any
    labels: Any
    image_shape: tuple[int, ...]
    count: int
    batch: int
    held_out_labels: NDArray[Any]
    class_weights: NDArray[Any] | None

    @property
    def steps(self) -> int:
        return math.ceil(self.count / self.batch)


def optimizer(config: TrainConfig, steps: int) -> Any:
    """Return the Keras optimizer for a training.

    It has `steps` steps. Updates are fused if possible.
    """
    import keras

    from mnist_cnn.training.fused_optimizers import FUSED
    from mnist_cnn.training.schedule import OneCycle

    rate: Any = config.rate
    if config.schedule is Schedule.one_cycle:
        rate = OneCycle(config.rate, steps, config.warmup)
    if config.numerics is Numerics.exact:
        from mnist_cnn.training.exact.optimizers import EXACT

        return EXACT[config.optimizer](rate)
    if config.optimizer in FUSED:
        return FUSED[config.optimizer](rate)
    return keras.optimizers.get({"class_name": config.optimizer.value, "config": {"learning_rate": rate}})


def loss_function(config: TrainConfig) -> Callable[[Any, Any], Any]:
    """Return a function: targets, probabilities -> losses (B,).

    Probabilities are (B, classes), losses in nats.
    """
    import keras

    if smoothing := config.label_smoothing:
        return functools.partial(keras.losses.categorical_crossentropy, label_smoothing=smoothing)
    loss: Callable[[Any, Any], Any] = keras.losses.get(config.loss.value)
    return loss


def scale(images: Any) -> Any:
    """Return uint8 images as float32 in [0, 1]."""
    import tensorflow as tf

    return tf.cast(images, tf.float32) * (1 / 255)  # as Grappler would write a division


def effective_precision(configured: Precision) -> Precision:
    """Return the precision, with `auto` resolved.

    It is bfloat16 if the device computes it natively, else float32. NVIDIA GPUs do from compute capability
    8.0 on (CUDA C++ Programming Guide, "Arithmetic Instructions").
    """
    import tensorflow as tf

    if configured is not Precision.auto:
        return configured
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        is_native = capability >= (8, 0)
    else:
        is_native = cpu.computes_bfloat16()
    return Precision.bfloat16 if is_native else Precision.float32
