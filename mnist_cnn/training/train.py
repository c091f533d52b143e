"""Train a job and save its results: data, epochs, model, plots.

A local process and a cluster node both call `train`. Nothing here knows which.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import cpu, run_folder
from mnist_cnn.config import Format, Keep, Loss, Numerics, Precision
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, RunCancelled, RunPaused
from mnist_cnn.files import atomic
from mnist_cnn.redaction import redact
from mnist_cnn.result import EpochRow, Progress, Result, describe_content, percent
from mnist_cnn.training import checkpoint, initial_weights, plots, stopping
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints
from mnist_cnn.training.epoch import Trainer, evaluate, predict_function
from mnist_cnn.training.model import weights_sha256
from mnist_cnn.training.runtime import Runtime
from mnist_cnn.training.scores import class_scores, confusion_counts
from mnist_cnn.training.sharing.group import ONE_WORKER, Group

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    from numpy.typing import NDArray

    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

    Weights = tuple[NDArray[Any], ...]

H5 = "keras-tf-mnist.h5"
SAVED_FILES = (run_folder.MODEL, run_folder.ONNX, H5, *run_folder.PLOTS, run_folder.METRICS)

log = logging.getLogger("mnist_cnn")


def train(  # noqa: PLR0913 - only the first two are required
    job: Job,
    folder: Path,
    *,
    device: str = "auto",
    checkpoints: Checkpoints | None = None,
    run_name: str | None = None,
    force: bool = False,
    pause_after: int | None = None,
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    is_stopping: Callable[[], bool] = lambda: False,
    group: Group = ONE_WORKER,
) -> Result:
    """Train `job`; write model, plots, history and result.json to `folder`, which must exist.

    Resumes from the newest undamaged checkpoint, if there is one. `checkpoints` are in `folder` by default;
    `run_name`, by default the folder's, is stored in model.onnx. `force` resumes even if the job or the
    runtime has changed, and the result lists the changes. It ends with a checkpoint after the epoch
    `pause_after`, even if that is the last one, or at the end of an epoch in which it `is_stopping`. The
    other workers of the `group` call `assist`.

    Raises:
        DataError: the data or the initial weights differ from what the job describes.
        BackendError: `device` (auto, cpu or gpu) is missing, the machine cannot train an exact job, or
            `folder` cannot be written.
        ConfigurationError: the network cannot be built, or the checkpoint does not fit the job or runtime.
        TrainingError: the loss or a weight is not finite.
        RunCancelled: `is_stopping` has ended it.
        RunPaused: `pause_after` has ended it; BackendError if the checkpoint of that epoch is not saved.
        MemoryError, OSError, TensorFlow's errors: the caller translates them (`worker.translated_errors`).
    """
    on_progress(Progress("preparing"))
    device_kind, arrays = _prepare(job, device)
    started = time.perf_counter()
    trainer = Trainer(job, arrays, group)
    runtime = _common_runtime(trainer, device_kind, group)
    run = folder if checkpoints is None else "RUN"  # a node does not know the run's folder
    checkpoints = checkpoints or Checkpoints(folder / run_folder.CHECKPOINTS)
    history, changes, kept = _resume(trainer, runtime, checkpoints, run, force=force)
    last = pause_after or job.train.epochs
    is_done, is_saved = len(history) >= last or stopping.is_done(history, job.train), True
    _broadcast_state(trainer, group, job.train.epochs if is_done else len(history))
    run_folder.write_history(folder, history)
    while not is_done:
        epoch = len(history) + 1
        row = trainer.run_epoch(epoch, on_progress)
        history.append(row)
        kept = _kept_weights(trainer, history, kept)
        is_done = len(history) >= last or stopping.is_done(history, job.train)
        must_stop = _end_epoch(trainer, group, is_done or is_stopping()) and not is_done
        if is_done or must_stop or epoch % job.train.checkpoint_every == 0:
            is_saved = checkpoints.save(_checkpoint(trainer, runtime, history, changes, kept))
        run_folder.write_history(folder, history)
        log.info("%s", describe_epoch(row, job))
        on_epoch(row)
        if must_stop:
            message = f"stopped after epoch {epoch} of {job.train.epochs}, because the machine asked for it"
            raise RunCancelled(message)
    if pause_after is not None:
        raise _pause(len(history), job.train.epochs, is_saved=is_saved)
    seconds = time.perf_counter() - started

    on_progress(_finalizing(trainer, len(history)))
    _restore_kept(trainer, history, kept)
    recorded = {"changes": changes, "training_seconds": seconds, **dataclasses.asdict(runtime)}
    recorded["numerics"] = job.train.numerics.value
    run_name = run_name or folder.resolve().name
    return _finish(trainer, arrays, history, folder, recorded, run_name=run_name)


def assist(
    job: Job, group: Group, *, device: str = "auto", is_stopping: Callable[[], bool] = lambda: False
) -> None:
    """Train as one of the workers whose worker 0 calls `train`; write nothing.

    Raises as `train` does, and what has ended another worker.
    """
    device_kind, arrays = _prepare(job, device)
    trainer = Trainer(job, arrays, group)
    _common_runtime(trainer, device_kind, group)
    trained = _broadcast_state(trainer, group)
    for epoch in range(trained + 1, job.train.epochs + 1):  # worker 0 may end it earlier
        trainer.run_epoch(epoch, lambda progress: None)
        if _end_epoch(trainer, group, is_stopping()):
            return


def _common_runtime(trainer: Trainer, device_kind: str, group: Group) -> Runtime:
    """Return this worker's runtime; its fingerprint must be the same for all workers.

    Raises ConfigurationError, on all of them.
    """
    own = Runtime.here(trainer.precision.value, device_kind, _threads(), trainer.fingerprint())
    gathered = group.gather(json.dumps(dataclasses.asdict(own)).encode())
    first, *others = (Runtime(**json.loads(content)) for content in gathered)
    differing = [
        f"Worker {rank}: {'; '.join(first.changes_to(other, before='worker 0:'))}"
        for rank, other in enumerate(others, 1)
        if other.fingerprint != first.fingerprint
    ]
    if differing:
        message = f"not all workers would end in the weights of worker 0. {'. '.join(differing)}"
        raise ConfigurationError(message, "use equal nodes with equal threads, or train.numerics=exact")
    return own


def _broadcast_state(trainer: Trainer, group: Group, epochs: int = 0) -> int:
    """Give all workers the state of worker 0, after `epochs` epochs; return that number.

    The state of Python's and NumPy's generators is not shared: no step with shards calls Python.
    """
    if group.count == 1:
        return epochs
    is_first = group.rank == 0
    epochs = int(group.gather(str(epochs).encode() if is_first else b"")[0])
    if epochs or trainer.job.train.init_sha256 is not None:
        own = b"".join(array.tobytes() for array in trainer.state()) if is_first else b""
        trainer.restore_bytes(group.gather(own)[0])
    return epochs


def _end_epoch(trainer: Trainer, group: Group, is_stopping: bool) -> bool:  # noqa: FBT001 - it is shared
    """Return whether any worker is stopping, after a check that all have computed the same numbers."""
    if group.count > 1:
        digest = hashlib.sha256(b"".join(array.tobytes() for array in trainer.state())).hexdigest()
        group.check_equal("state at the end of an epoch", digest[:8], "use equal nodes; one may be faulty")
    return b"1" in group.gather(b"1" if is_stopping else b"0")


def describe_epoch(row: EpochRow, job: Job) -> str:
    """Return the log line of an epoch, which fits a terminal of 80 columns."""
    held_out = "val" if job.data.validation else "test"
    accuracy, val_accuracy = percent(row.accuracy), percent(row.val_accuracy)
    return (
        f"epoch {row.epoch}/{job.train.epochs}  loss {row.loss:.4f} ({held_out} {row.val_loss:.4f})  "
        f"accuracy {accuracy} ({held_out} {val_accuracy})  {row.seconds:.1f} s"
    )


def _finalizing(trainer: Trainer, epoch: int) -> Progress:
    epochs, steps = trainer.job.train.epochs, trainer.data.steps
    return Progress("finalizing", epoch=epoch, epochs=epochs, step=steps, steps=steps)


def _prepare(job: Job, device: str) -> tuple[str, DataSet]:
    """Read the data while TensorFlow is imported; return the device's kind and the data."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(datasets.load, job.data)
        device_kind = _prepare_tensorflow(job, device)
        arrays = reading.result()
    for name in ("train", "validation", "test"):
        images, labels = getattr(arrays, f"x_{name}"), getattr(arrays, f"y_{name}")
        if len(images):
            is_one_hot = job.train.loss is Loss.categorical_crossentropy
            targets = (*labels.shape, job.data.num_classes) if is_one_hot else labels.shape
            log.info("x_%s %s, y_%s %s", name, images.shape, name, targets)
    return device_kind, arrays


def _prepare_tensorflow(job: Job, device: str) -> str:
    """Import TensorFlow, make it deterministic and choose the device; return the device's kind.

    An exact training uses the CPU, even if `device` is auto and there is a GPU.
    """
    if job.train.numerics is Numerics.exact:
        cpu.check_exact(device)
        device = "cpu"
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the trainer needs it, whatever the user's Keras uses
    cpu.enable_onednn()
    gc.disable()  # nearly all that the import makes stays; to look for garbage in it takes a second
    import tensorflow as tf

    gc.freeze()
    gc.enable()
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        hint = "install the GPU libraries with pip install 'mnist-cnn[gpu]', or choose backend.device=cpu"
        raise BackendError("backend.device=gpu: TensorFlow finds no GPU on this machine", hint)
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if job.train.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(job.train.threads)
    tf.config.experimental.enable_op_determinism()
    if gpus and device != "cpu":
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu"))
    return "cpu"


def _threads() -> int:
    """Return TensorFlow's configured threads per operation; 0 means that TensorFlow chooses."""
    import tensorflow as tf

    return int(tf.config.threading.get_intra_op_parallelism_threads())


def _resume(
    trainer: Trainer, runtime: Runtime, checkpoints: Checkpoints, run: Path | str, *, force: bool
) -> tuple[list[EpochRow], tuple[str, ...], Weights]:
    """Restore the newest undamaged checkpoint; return its history, recorded changes and kept weights."""
    found = checkpoints.newest()
    if found is None:
        _start_from_weights(trainer, checkpoints.folder)
        return [], (), ()
    found = found.check(trainer.job, runtime, force=force, run=run)
    trainer.restore(found.arrays)
    checkpoint.set_generators(found.generators)
    log.info("resuming after epoch %d of %d", len(found.history), trainer.job.train.epochs)
    history = list(found.history)
    saved = stopping.saved_epoch(history, trainer.job.train.keep)
    if saved < len(history) and not found.kept:  # train.keep was changed by hand
        message = f"the checkpoint lacks the weights of epoch {saved}, the best one"
        raise ConfigurationError(message, "set train.keep=last, as it was, or start a new run")
    return history, found.changes, found.kept or _kept_weights(trainer, history, ())


def _start_from_weights(trainer: Trainer, folder: Path) -> None:
    """Give the network the weights that the job starts from, if it names some; see `initial_weights`."""
    sha256 = trainer.job.train.init_sha256
    if sha256 is None:
        return
    arrays = initial_weights.load(folder, sha256)
    initial_weights.check_shapes(arrays, [weight.shape for weight in trainer.model.weights])
    trainer.model.set_weights(arrays)
    log.info("starting from the weights %s", sha256)


def _pause(epoch: int, epochs: int, *, is_saved: bool) -> MnistCnnError:
    """Return the end of a training that pauses. Its checkpoint is all that it leaves."""
    if is_saved:
        return RunPaused(f"paused after epoch {epoch} of {epochs}, as pause_after asked")
    message = f"not paused: the checkpoint of epoch {epoch} of {epochs} could not be saved"
    return BackendError(message, "resume the run; it trains the epochs since its last checkpoint again")


def _checkpoint(
    trainer: Trainer, runtime: Runtime, history: list[EpochRow], changes: tuple[str, ...], kept: Weights
) -> Checkpoint:
    """Return the checkpoint of this moment. The weights of the newest epoch are part of the state."""
    is_newest = stopping.saved_epoch(history, trainer.job.train.keep) == len(history)
    state, generators = trainer.state(), checkpoint.generators()
    kept = () if is_newest else kept
    return Checkpoint(trainer.job, runtime, tuple(history), state, generators, changes, kept)


def _kept_weights(trainer: Trainer, history: list[EpochRow], before: Weights) -> Weights:
    """Return the weights of the best epoch so far, if the job keeps them; `before` are those until now."""
    if trainer.job.train.keep is Keep.last:
        return ()
    is_best = stopping.best_epoch(history) == len(history)
    return tuple(trainer.model.get_weights()) if is_best else before


def _restore_kept(trainer: Trainer, history: list[EpochRow], kept: Weights) -> None:
    """Restore the weights of the epoch that is saved; say which it is if it isn't the last planned one."""
    epochs = trainer.job.train.epochs
    if len(history) < epochs:
        best = stopping.best_epoch(history)
        log.info("stopped after epoch %d of %d: none since epoch %d was better", len(history), epochs, best)
    saved = stopping.saved_epoch(history, trainer.job.train.keep)
    if saved < len(history):
        trainer.model.set_weights(kept)
        log.info("saved: epoch %d, which has the lowest validation loss", saved)


def _finish(  # noqa: PLR0913 - all of them are results
    trainer: Trainer,
    arrays: DataSet,
    history: list[EpochRow],
    folder: Path,
    recorded: dict[str, Any],
    *,
    run_name: str,
) -> Result:
    """Evaluate and save the model, plots and result.json; return the result.

    `recorded` are fields of the result that are already known.
    """
    job, model = trainer.job, trainer.float32_model()
    predict = predict_function(model, arrays.x_test.shape[1:])
    loss, accuracy, probabilities = evaluate(predict, arrays.x_test, arrays.y_test)
    note = ""
    if trainer.is_exact or trainer.precision is Precision.bfloat16:
        how = f"with {job.train.exact_bits}-bit operands" if trainer.is_exact else "in bfloat16"
        note = f" of the saved float32 model; the epochs were evaluated {how}"
    log.info("test loss %.4f, test accuracy %s%s", loss, percent(accuracy), note)
    metadata = {"run": run_name, "job_digest": job.digest, "accuracy": f"{accuracy:.4f}"}
    _save_model(job, model, folder, metadata)
    saved_epoch = stopping.saved_epoch(history, job.train.keep)
    history_plot = folder / run_folder.HISTORY_PLOT
    plots.history(history, history_plot, held_out=job.data.held_out, saved_epoch=saved_epoch)
    counts = confusion_counts(arrays.y_test, probabilities.argmax(axis=1), job.data.num_classes)
    plots.confusion(counts, folder / run_folder.CONFUSION_PLOT)
    images = arrays.x_test.squeeze(axis=3 if job.data.format is Format.channels_last else 1)  # (N, 28, 28)
    plots.mistakes(images, arrays.y_test, probabilities, folder / run_folder.MISTAKES_PLOT)
    saved = (folder / name for name in SAVED_FILES)
    result = Result(
        job_digest=job.digest,
        accuracy=accuracy,
        loss=loss,
        history=tuple(history),
        seconds_per_epoch=sum(row.seconds for row in history) / len(history),
        weights_sha256=weights_sha256(model),
        saved_epoch=saved_epoch,
        classes=class_scores(counts),
        files={path.name: describe_content(path.read_bytes()) for path in saved if path.exists()},
        **recorded,
    )
    atomic.write_text(folder / run_folder.RESULT, result.to_json())
    log.info("weights %s", result.weights_sha256)
    return result


def _save_model(job: Job, model: keras.Model, folder: Path, metadata: dict[str, str]) -> None:
    import keras

    if job.save_h5:
        save_h5(model, folder / H5)
    # Compiled for `evaluate`, with an optimizer that has no state: the job's would triple the file. A custom
    # network may define its own `compile`, which takes other arguments.
    keras.Model.compile(model, "sgd", job.train.loss.value, metrics=["accuracy"], jit_compile=False)
    with atomic.replacing(folder / run_folder.MODEL) as temporary:
        model.save(temporary)
    try:
        with atomic.replacing(folder / run_folder.ONNX) as temporary:
            model.export(str(temporary), format="onnx", verbose=False)
            _describe_onnx(temporary, metadata)
    except MnistCnnError:
        raise
    except Exception as error:  # noqa: BLE001 - a custom network may use operations that ONNX does not have
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("no model.onnx, so `predict` will not work: %s", redact(cause))


def _describe_onnx(path: Path, metadata: dict[str, str]) -> None:
    """Name an ONNX model's input, output and batch dimension, and store the metadata in it."""
    import onnx

    model = onnx.load(path)
    (images,), (probabilities,) = model.graph.input, model.graph.output
    names = {images.name: "image", probabilities.name: "probabilities"}
    used = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if (used - names.keys()) & set(names.values()):  # of a custom network
        names = {name: name for name in names}
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    for value in (images, probabilities):
        value.name = names[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def save_h5(model: keras.Model, path: Path) -> None:
    """Write the tutorial's HDF5 file. Raises BackendError if it cannot be written."""
    with atomic.replacing(path) as temporary:
        # Zeros, at least as many as the file's bytes, raise OSError if the disk is full; h5py would crash.
        temporary.write_bytes(bytes(2 * 4 * model.count_params()))
        model.save(temporary)
