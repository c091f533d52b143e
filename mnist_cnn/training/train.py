"""A training from its job to its result: data, epochs, model, pictures.

Whoever starts it (a process here, a node of a cluster) calls `train`; nothing in it knows where it runs.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.config import Format, Loss
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.files import atomic
from mnist_cnn.redaction import redact
from mnist_cnn.result import EpochRow, FileEntry, Progress, Result, describe_content
from mnist_cnn.training import checkpoint, plots
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints
from mnist_cnn.training.epoch import Trainer, compiled, evaluate
from mnist_cnn.training.model import weights_sha256
from mnist_cnn.training.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

H5_ROOM = 2
"""How many times the size of its float32 weights an HDF5 file may have at most."""

log = logging.getLogger("mnist_cnn")


def train(  # noqa: PLR0913 - all but the first two are there for who runs it elsewhere
    job: Job,
    folder: Path,
    *,
    device: str = "auto",
    checkpoints: Checkpoints | None = None,
    force: bool = False,
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Train `job`, leaving model, pictures, history and result.json in `folder`, which exists.

    Where there are `checkpoints` (by default in a folder within it), the training goes on from the newest
    sound one. Where job or machine have changed since, only `force` goes on, and the result says so.
    `device` is auto, cpu or gpu.

    Raises:
        DataError: the data are not what the job says.
        BackendError: the device is not there, or the folder cannot be written.
        ConfigurationError: the network cannot be built, or the training cannot go on as it began.
        TrainingError: the loss or a weight is no number.
        MemoryError, OSError, TensorFlow's errors: see `worker.translated_errors`.
    """
    on_progress(Progress("preparing"))
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(datasets.load, job.data)  # while TensorFlow is imported, which takes longer
        device_kind = _prepare_tensorflow(job, device)
        arrays = reading.result()
    _print_shapes(job, arrays)

    started = time.perf_counter()
    trainer = Trainer(job, arrays)
    runtime = Runtime.here(trainer.precision.value, device_kind, job.train.threads)
    checkpoints = checkpoints or Checkpoints(folder / run_folder.CHECKPOINTS)
    history, changes = _go_on(trainer, runtime, checkpoints, force=force)
    run_folder.write_history(folder, history)
    for epoch in range(len(history) + 1, job.train.epochs + 1):
        row = trainer.run_epoch(epoch, on_progress)
        history.append(row)
        if epoch % job.train.checkpoint_every == 0 or epoch == job.train.epochs:
            state, generators = trainer.state(), checkpoint.generators()
            checkpoints.save(Checkpoint(job, runtime, tuple(history), state, generators, changes))
        run_folder.write_history(folder, history)
        log.info("%s", describe_epoch(row, job))
        on_epoch(row)
    training_seconds = time.perf_counter() - started

    on_progress(Progress("finalizing", job.train.epochs, job.train.epochs))
    model = trainer.float32_model()
    loss, accuracy, probabilities = evaluate(compiled(model), arrays.x_test, arrays.y_test)
    log.info("test loss %.4f, test accuracy %.4f", loss, accuracy)
    _save_model(job, model, folder)
    _save_pictures(job, arrays, history, probabilities, folder)
    result = Result(
        job_digest=job.digest,
        accuracy=accuracy,
        loss=loss,
        history=tuple(history),
        seconds_per_epoch=sum(row.seconds for row in history) / len(history),
        training_seconds=training_seconds,
        weights_sha256=weights_sha256(model),
        files=_files(folder),
        changes=changes,
        **dataclasses.asdict(runtime),
    )
    atomic.write_text(folder / run_folder.RESULT, result.to_json())
    log.info("weights %s", result.weights_sha256)
    return result


def describe_epoch(row: EpochRow, job: Job) -> str:
    """Return the line that the log has for an epoch."""
    held_out = "validation" if job.data.validation else "test"
    return (
        f"epoch {row.epoch}/{job.train.epochs}  loss {row.loss:.4f}  accuracy {row.accuracy:.4f}  "
        f"{held_out} loss {row.val_loss:.4f}  {held_out} accuracy {row.val_accuracy:.4f}  {row.seconds:.1f} s"
    )


def _go_on(
    trainer: Trainer, runtime: Runtime, checkpoints: Checkpoints, *, force: bool
) -> tuple[list[EpochRow], tuple[str, ...]]:
    """Take over the newest sound checkpoint; return its history, and what has changed within the run."""
    found = checkpoints.newest()
    if found is None:
        return [], ()
    found = found.check(trainer.job, runtime, force=force)
    trainer.restore(found.arrays)
    checkpoint.set_generators(found.generators)
    log.info("going on after epoch %d of %d", len(found.history), trainer.job.train.epochs)
    return list(found.history), found.changes


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
        save_h5(model, folder / "keras-tf-mnist.h5")
    try:
        with atomic.replacing(folder / "model.onnx") as temporary:
            model.export(str(temporary), format="onnx", verbose=False)
    except MnistCnnError:
        raise
    except Exception as error:  # noqa: BLE001 - a network of one's own may have what ONNX has not
        what = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("no model.onnx, so `predict` will not work: %s", redact(what))


def save_h5(model: keras.Model, path: Path) -> None:
    """Write the tutorial's HDF5 file. Raises BackendError where it cannot be written."""
    with atomic.replacing(path) as temporary:
        # Zeros first: where the disk has no room this fails as a write should, while h5py would crash.
        temporary.write_bytes(bytes(H5_ROOM * 4 * model.count_params()))
        model.save(temporary)


def _save_pictures(
    job: Job, arrays: DataSet, history: list[EpochRow], probabilities: NDArray[Any], folder: Path
) -> None:
    channel_axis = 3 if job.data.format is Format.channels_last else 1
    images = arrays.x_test.squeeze(axis=channel_axis)  # (N, 28, 28)
    held_out = "validation" if job.data.validation else "test"
    plots.history(history, folder / "history.png", held_out=held_out)
    predicted = probabilities.argmax(axis=1)
    plots.confusion(arrays.y_test, predicted, job.data.num_classes, folder / "confusion.png")
    plots.mistakes(images, arrays.y_test, probabilities, folder / "mistakes.png")


def _files(folder: Path) -> dict[str, FileEntry]:
    """Describe the files that the training leaves, by name."""
    names = ("model.keras", "model.onnx", "keras-tf-mnist.h5", "history.png", "confusion.png", "mistakes.png")
    paths = [folder / name for name in (*names, run_folder.METRICS)]
    return {path.name: describe_content(path.read_bytes()) for path in paths if path.exists()}
