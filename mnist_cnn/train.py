"""The trainer: a job and an empty folder in, a trained model and its result out.

One epoch is one compiled loop over a permutation that is a pure function of (seed, epoch); images are
gathered and scaled inside it. All of the state is in the variables at the epoch's end, which is what a
checkpoint holds. Whoever starts it (a process here, a node of a cluster) calls `train`; nothing in it
knows where it runs.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import atomic, checkpoint, data, pictures, processor, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.checkpoint import Checkpoint
from mnist_cnn.config import Format, Loss, Precision
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, TrainingError, storage_error
from mnist_cnn.model import build_model, weights_sha256
from mnist_cnn.result import EpochRow, FileEntry, Progress, Result, describe_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.data import DataSet
    from mnist_cnn.job import Job

PROGRESS_SECONDS = 0.5
"""How often the training says where it stands, and so how long it takes at most to hear of a signal."""
EVALUATION_BATCH = 1000
RECORDED_PACKAGES = ("keras", "numpy", "tensorflow")

log = logging.getLogger("mnist_cnn")


def train(
    job: Job,
    folder: Path,
    *,
    device: str = "auto",
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Train `job`, leaving model, pictures, history and result.json in `folder`, which exists.

    Where the folder holds checkpoints of this job, the training goes on from the newest sound one.
    `device` is auto, cpu or gpu.

    Raises:
        DataError: the data are not what the job says.
        BackendError: the device is not there, or the folder cannot be written.
        ConfigurationError: the network cannot be built.
        TrainingError: the loss is no number, or memory ran out.
    """
    on_progress(Progress("preparing"))
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(data.load, job.data)  # while TensorFlow is imported, which takes longer
        device_kind = _prepare_tensorflow(job, device)
        arrays = reading.result()
    _print_shapes(job, arrays)

    trainer = Trainer(job, arrays)
    history = list(trainer.restore(folder / run_folder.CHECKPOINTS))
    for epoch in range(len(history) + 1, job.train.epochs + 1):
        row = trainer.run_epoch(epoch, on_progress)
        history.append(row)
        trainer.save(folder / run_folder.CHECKPOINTS, tuple(history))
        run_folder.write_history(folder, history)
        log.info("%s", describe_epoch(row, job))
        on_epoch(row)

    on_progress(Progress("finalizing", job.train.epochs, job.train.epochs))
    model = trainer.float32_model()
    loss, accuracy, probabilities = evaluate(model, arrays.x_test, arrays.y_test)
    log.info("test loss %.4f, test accuracy %.4f", loss, accuracy)
    _save_model(job, model, folder)
    _save_pictures(job, arrays, history, probabilities, folder)
    result = Result(
        job_digest=job.digest,
        accuracy=accuracy,
        loss=loss,
        history=tuple(history),
        seconds_per_epoch=sum(row.seconds for row in history) / len(history),
        weights_sha256=weights_sha256(model),
        precision=trainer.precision.value,
        device=device_kind,
        processor=processor.description(),
        threads=job.train.threads or processor.count(),
        versions=_versions(),
        files=_files(folder),
    )
    atomic.write_text(folder / run_folder.RESULT, result.to_json())
    log.info("weights %s", result.weights_sha256)
    return result


class Trainer:
    """The network, its optimizer and the compiled epoch, on data that stay in memory as uint8."""

    def __init__(self, job: Job, arrays: DataSet) -> None:
        import keras
        import tensorflow as tf

        self.job = job
        self.arrays = arrays
        self.precision = effective_precision(job.train.precision)
        keras.utils.set_random_seed(job.seed)
        self.model = self._build(
            "mixed_bfloat16" if self.precision is Precision.bfloat16 else "float32",
        )
        self.optimizer: Any = keras.optimizers.get(
            {"class_name": job.train.optimizer.value, "config": {"learning_rate": job.train.learning_rate}}
        )
        self.optimizer.build(self.model.trainable_variables)
        self.batch = min(job.train.batch_size, len(arrays.x_train))
        self.steps = math.ceil(len(arrays.x_train) / self.batch)
        self.images = tf.constant(arrays.x_train)  # (N, 28, 28, 1) uint8
        self.labels = tf.constant(arrays.y_train)  # (N,) uint8
        self.loss_sum = tf.Variable(0.0, dtype=tf.float64)  # over the images of the epoch so far
        self.correct = tf.Variable(0, dtype=tf.int64)
        self.run_steps = tf.function(self._run_steps)
        self.chunk = 1

    def run_epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> EpochRow:
        """Train on every image once, then evaluate; return the epoch's row."""
        import tensorflow as tf

        started = time.perf_counter()
        order = tf.constant(permutation(self.job.seed, epoch, len(self.arrays.x_train)))  # (N,) int32
        self.loss_sum.assign(0.0)
        self.correct.assign(0)
        step = 0
        while step < self.steps:
            chunk_started = time.perf_counter()
            stop = min(step + self.chunk, self.steps)
            self.run_steps(order, tf.constant(step), tf.constant(stop))
            progress = self._progress(epoch, stop, started)
            seconds = time.perf_counter() - chunk_started
            self.chunk = max(1, min(self.steps, round(self.chunk * min(4.0, PROGRESS_SECONDS / seconds))))
            step = stop
            if not math.isfinite(progress.loss):
                message = f"the loss became {progress.loss} in epoch {epoch}, by step {stop} of {self.steps}"
                rate = self.job.train.learning_rate
                raise TrainingError(message, f"lower train.learning_rate, which is {rate:g}")
            on_progress(progress)
        val_loss, val_accuracy, _ = evaluate(self.model, *self._held_out())
        return EpochRow(
            epoch=epoch,
            loss=progress.loss,
            accuracy=progress.accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(self.optimizer.learning_rate),
            seconds=time.perf_counter() - started,
        )

    def save(self, folder: Path, history: tuple[EpochRow, ...]) -> None:
        """Write a checkpoint of all variables after the last epoch of `history`."""
        checkpoint.save(folder, Checkpoint(self.job.digest, history, self._state()))

    def restore(self, folder: Path) -> tuple[EpochRow, ...]:
        """Take over the newest sound checkpoint and return its history; no rows where there is none."""
        found = checkpoint.newest(folder, self.job.digest, self._state())
        if found is None:
            return ()
        for variable, array in zip(self._variables(), found.arrays, strict=True):
            variable.assign(array)
        log.info("going on after epoch %d of %d", len(found.history), self.job.train.epochs)
        return found.history

    def float32_model(self) -> keras.Model:
        """Return the plain float32 model with the trained weights."""
        if self.precision is Precision.float32:
            return self.model
        plain = self._build("float32")
        plain.set_weights(self.model.get_weights())
        return plain

    def _run_steps(self, order: Any, first: Any, stop: Any) -> None:
        """Train on steps `first` to `stop` of the epoch; a `tf.function`, traced once."""
        import keras
        import tensorflow as tf

        loss_of = keras.losses.get(self.job.train.loss.value)
        for step in tf.range(first, stop):
            rows = order[step * self.batch : (step + 1) * self.batch]  # (B,), less in the last step
            images = scale(tf.gather(self.images, rows))  # (B, 28, 28, 1) float32
            labels = tf.cast(tf.gather(self.labels, rows), tf.int32)  # (B,)
            targets = labels
            if self.job.train.loss is Loss.categorical_crossentropy:
                targets = tf.one_hot(labels, self.job.data.num_classes)  # (B, classes)
            with tf.GradientTape() as tape:
                probabilities = self.model(images, training=True)  # (B, classes)
                loss = tf.reduce_mean(loss_of(targets, probabilities))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            hits = tf.equal(tf.argmax(probabilities, 1, tf.int32), labels)
            self.loss_sum.assign_add(tf.cast(loss, tf.float64) * tf.cast(tf.size(rows), tf.float64))
            self.correct.assign_add(tf.math.count_nonzero(hits))

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

    def _held_out(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what val_* is measured on: the validation images, or the test set where there are none."""
        if len(self.arrays.x_validation):
            return self.arrays.x_validation, self.arrays.y_validation
        return self.arrays.x_test, self.arrays.y_test

    def _variables(self) -> list[Any]:
        """Return all that decides what comes next: weights, dropout's seeds, optimizer state."""
        return [*self.model.variables, *self.optimizer.variables]

    def _state(self) -> tuple[NDArray[Any], ...]:
        return tuple(variable.numpy() for variable in self._variables())

    def _build(self, policy: str) -> keras.Model:
        shape = self.arrays.x_train.shape[1:]
        job = self.job
        return build_model(job.model, shape, job.data.num_classes, job.data.format, policy)


def evaluate(
    model: keras.Model, images: NDArray[Any], labels: NDArray[Any]
) -> tuple[float, float, NDArray[Any]]:
    """Return mean cross-entropy in nats, accuracy in [0, 1] and float32 probabilities (N, classes).

    `images` is uint8 (N, H, W, 1) or (N, 1, H, W), `labels` uint8 (N,).
    """
    import numpy as np
    import tensorflow as tf

    def probabilities_of(batch: Any) -> Any:
        return tf.cast(model(scale(batch), training=False), tf.float32)

    predict = tf.function(probabilities_of, reduce_retracing=True)
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
    """Resolve `auto` to what this processor computes natively."""
    if asked is Precision.auto:
        return Precision.bfloat16 if processor.computes_bfloat16() else Precision.float32
    return asked


def describe_epoch(row: EpochRow, job: Job) -> str:
    """Return the line that the log has for an epoch."""
    held_out = "validation" if job.data.validation else "test"
    return (
        f"epoch {row.epoch}/{job.train.epochs}  loss {row.loss:.4f}  accuracy {row.accuracy:.4f}  "
        f"{held_out} loss {row.val_loss:.4f}  {held_out} accuracy {row.val_accuracy:.4f}  {row.seconds:.1f} s"
    )


def _prepare_tensorflow(job: Job, device: str) -> str:
    """Import TensorFlow, make it deterministic and choose the device; return the device's kind.

    Raises:
        BackendError: a GPU is asked for and there is none.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        hint = "install what it needs with pip install 'mnist-cnn[gpu]', or choose backend.device=cpu"
        raise BackendError("backend.device=gpu: TensorFlow finds no GPU on this machine", hint)
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if job.train.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(job.train.threads)
    tf.config.experimental.enable_op_determinism()
    if gpus and device != "cpu":
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu"))
    return "cpu"


def _print_shapes(job: Job, arrays: DataSet) -> None:
    for name in ("train", "validation", "test"):
        images, labels = getattr(arrays, f"x_{name}"), getattr(arrays, f"y_{name}")
        if len(images):
            targets = labels.shape
            if job.train.loss is Loss.categorical_crossentropy:
                targets = (*labels.shape, job.data.num_classes)
            log.info("x_%s %s, y_%s %s", name, images.shape, name, targets)


def _save_model(job: Job, model: keras.Model, folder: Path) -> None:
    with atomic.replacing(folder / "model.keras") as temporary:
        model.save(temporary)
    if job.save_h5:
        with atomic.replacing(folder / "keras-tf-mnist.h5") as temporary:
            model.save(temporary)
    with atomic.replacing(folder / "model.onnx") as temporary:
        model.export(str(temporary), format="onnx", verbose=False)


def _save_pictures(
    job: Job, arrays: DataSet, history: list[EpochRow], probabilities: NDArray[Any], folder: Path
) -> None:
    channel_axis = 3 if job.data.format is Format.channels_last else 1
    images = arrays.x_test.squeeze(axis=channel_axis)  # (N, 28, 28)
    held_out = "validation" if job.data.validation else "test"
    pictures.history(history, folder / "history.png", held_out=held_out)
    predicted = probabilities.argmax(axis=1)
    pictures.confusion(arrays.y_test, predicted, job.data.num_classes, folder / "confusion.png")
    pictures.mistakes(images, arrays.y_test, probabilities, folder / "mistakes.png")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in RECORDED_PACKAGES}


def _files(folder: Path) -> dict[str, FileEntry]:
    """Describe the files that the training leaves, by name."""
    names = ("model.keras", "model.onnx", "keras-tf-mnist.h5", "history.png", "confusion.png", "mistakes.png")
    paths = [folder / name for name in (*names, run_folder.METRICS)]
    return {path.name: describe_content(path.read_bytes()) for path in paths if path.exists()}


def main(arguments: list[str]) -> int:
    """Train the job of a run folder in this process, and keep its receipt: FOLDER [DEVICE].

    Everything printed goes to where this process's output goes. Returns the exit code, which the
    receipt has too, with the error's two lines.
    """
    folder = Path(arguments[0])
    device = arguments[1] if len(arguments) > 1 else "auto"
    _print_log()
    signal.signal(signal.SIGTERM, _cancel)
    try:
        run_folder.await_entry(folder, os.getpid())
        with _worded_failures():
            job = run_folder.read_job(folder)
            train(job, folder, device=device, on_progress=lambda now: run_folder.write_progress(folder, now))
    except MnistCnnError as error:
        return _fail(folder, error)
    except Exception as error:  # noqa: BLE001 - a bug, which the receipt must tell all the same
        traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(folder, MnistCnnError(f"a bug: {what}", "please report it, with the run's log.txt"))
    run_folder.ended(folder, Status.completed)
    return 0


def _print_log() -> None:
    """Print what this package logs; what the libraries log is theirs to print."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(run_folder.LOG_FORMAT, run_folder.LOG_TIME))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _fail(folder: Path, error: MnistCnnError) -> int:
    """Enter an error into log and receipt; return its exit code, also where the disk takes neither."""
    try:
        log.error("%s", error.message)
        run_folder.ended(
            folder, Status.cancelled if isinstance(error, RunCancelled) else Status.failed, error
        )
    except MnistCnnError as unwritten:
        log.error("%s", unwritten.message)  # noqa: TRY400 - a worded error needs no traceback
    return error.exit_code


@contextmanager
def _worded_failures() -> Iterator[None]:
    """Translate what a training can meet outside this package's own errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, str(error.filename or "the run folder")) from error
    except MemoryError as error:
        hint = "lower train.batch_size, or choose another machine"
        raise TrainingError("the machine's memory does not suffice for this training", hint) from error
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which need not be imported yet
            hint = "lower train.batch_size or the network's size"
            raise TrainingError("the device's memory does not suffice for this training", hint) from error
        raise


def _cancel(_signal_number: int, _frame: object) -> None:
    raise RunCancelled("the run was cancelled", "go on with it: resume RUN")


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # all is written; TensorFlow would take up to two seconds to let go
