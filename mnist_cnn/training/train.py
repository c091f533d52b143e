"""Train a job: data, epochs, checkpoints, result.

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
from typing import TYPE_CHECKING

from mnist_cnn import cpu, run_folder
from mnist_cnn.config import Loss, Numerics
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError, RunCancelled
from mnist_cnn.result import EpochRow, Progress, Result, describe_metrics, percent
from mnist_cnn.training.checkpoint import Checkpoints
from mnist_cnn.training.distributed.group import ONE_WORKER, Group
from mnist_cnn.training.epoch import Trainer
from mnist_cnn.training.runtime import Runtime
from mnist_cnn.training.saving import save_result
from mnist_cnn.training.session import Session
from mnist_cnn.training.tensorflow_import import import_tensorflow, no_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job

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
    """Train `job` and write its result to `folder`.

    The folder must exist; it gets model, plots, history and result.json. Resumes from the newest undamaged
    checkpoint, if there is one. `checkpoints` are in `folder` by default; `run_name`, by default the
    folder's, is stored in model.onnx. `force` resumes even if the job or the runtime has changed, and the
    result lists the changes. It ends with a checkpoint after the epoch `pause_after`, even if that is the
    last one, or at the end of an epoch in which it `is_stopping`. The other workers of the `group` call
    `assist`.

    Raises:
        DataError: the data or the initial weights differ from what the job describes.
        BackendError: `device` (auto, cpu or gpu) is missing, the machine cannot train an exact job, or
            `folder` cannot be written.
        ConfigurationError: the network cannot be built, or the checkpoint is of another job or runtime.
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
    session = Session(trainer, runtime, checkpoints, pause_after or job.train.epochs)
    session.resume(run, force=force)
    if not session.history:  # a resumed run has already said it
        _log_shapes(job, arrays)
    _broadcast_state(trainer, group, job.train.epochs if session.is_done() else len(session.history))
    run_folder.write_history(folder, session.history)
    for row in _train_epochs(session, group, on_progress, is_stopping):
        run_folder.write_history(folder, session.history)
        log.info("%s", describe_epoch(row, job))
        on_epoch(row)
    if pause_after is not None:
        raise session.pause()
    seconds = time.perf_counter() - started
    epochs, steps = job.train.epochs, trainer.data.steps
    on_progress(Progress("finalizing", epoch=len(session.history), epochs=epochs, step=steps, steps=steps))
    session.restore_saved()
    return save_result(session, arrays, folder, run_name or folder.resolve().name, seconds)


def _train_epochs(
    session: Session, group: Group, on_progress: Callable[[Progress], None], is_stopping: Callable[[], bool]
) -> Iterator[EpochRow]:
    """Train; yield each epoch's row after its checkpoint.

    Raises RunCancelled after an epoch in which it `is_stopping`.
    """
    config = session.trainer.job.train
    while not session.is_done():
        row = session.trainer.run_epoch(len(session.history) + 1, on_progress)
        session.add(row)
        is_last = session.is_done()
        must_stop = _end_epoch(session.trainer, group, is_last or is_stopping()) and not is_last
        if is_last or must_stop or row.epoch % config.checkpoint_every == 0:
            session.save()
        yield row
        if must_stop:
            message = f"stopped after epoch {row.epoch} of {config.epochs}, because the machine sent SIGTERM"
            raise RunCancelled(message)


def assist(
    job: Job, group: Group, *, device: str = "auto", is_stopping: Callable[[], bool] = lambda: False
) -> None:
    """Train as a worker other than 0; write nothing.

    Worker 0 calls `train`. Raises as `train` does, and what has ended another worker.
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
    """Return this worker's runtime.

    Its fingerprint must be the same for all workers. Raises ConfigurationError on all of them.
    """
    own = Runtime.here(trainer.precision.value, device_kind, _threads(), trainer.fingerprint())
    gathered = group.all_gather(json.dumps(dataclasses.asdict(own)).encode())
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
    """Give all workers worker 0's state; return its epochs.

    Worker 0 passes `epochs`. The state of Python's and NumPy's generators is not shared: no step with shards
    calls Python.
    """
    if group.count == 1:
        return epochs
    is_first = group.rank == 0
    epochs = int(group.all_gather(str(epochs).encode() if is_first else b"")[0])
    if epochs or trainer.job.train.init_sha256 is not None:
        own = b"".join(array.tobytes() for array in trainer.state()) if is_first else b""
        trainer.restore_bytes(group.all_gather(own)[0])
    return epochs


def _end_epoch(trainer: Trainer, group: Group, is_stopping: bool) -> bool:  # noqa: FBT001 - it is shared
    """Return whether any worker is stopping.

    Checks that all have computed the same numbers.
    """
    if group.count > 1:
        digest = hashlib.sha256(b"".join(array.tobytes() for array in trainer.state())).hexdigest()
        group.check_equal("state at the end of an epoch", digest[:8], "use equal nodes; one may be faulty")
    return b"1" in group.all_gather(b"1" if is_stopping else b"0")


def describe_epoch(row: EpochRow, job: Job) -> str:
    """Return an epoch's log line, at most 80 columns without `train.metrics`."""
    held_out = "val" if job.data.validation else "test"
    accuracy, val_accuracy = percent(row.accuracy), percent(row.val_accuracy)
    more = f"{held_out} {describe_metrics(row.metrics)}  " if row.metrics else ""
    return (
        f"epoch {row.epoch}/{job.train.epochs}  loss {row.loss:.4f} ({held_out} {row.val_loss:.4f})  "
        f"accuracy {accuracy} ({held_out} {val_accuracy})  {more}{row.seconds:.1f} s"
    )


def _prepare(job: Job, device: str) -> tuple[str, DataSet]:
    """Return the device's kind and the data.

    Reads the data while TensorFlow is imported.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(datasets.load, job.data)
        device_kind = _prepare_tensorflow(job, device)
        arrays = reading.result()
    return device_kind, arrays


def _log_shapes(job: Job, arrays: DataSet) -> None:
    for name in ("train", "validation", "test"):
        images, labels = getattr(arrays, f"x_{name}"), getattr(arrays, f"y_{name}")
        if len(images):
            is_one_hot = job.train.loss is Loss.categorical_crossentropy
            targets = (*labels.shape, job.data.classes) if is_one_hot else labels.shape
            log.info("x_%s %s, y_%s %s", name, images.shape, name, targets)


def _prepare_tensorflow(job: Job, device: str) -> str:
    """Import and configure TensorFlow; return the device's kind.

    Makes TensorFlow deterministic. An exact training uses the CPU, even if `device` is auto and there is a
    GPU.
    """
    if job.train.numerics is Numerics.exact:
        cpu.check_exact(device)
        device = "cpu"
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the trainer needs it, whatever the user's Keras uses
    cpu.enable_onednn()
    gc.disable()  # nearly all that the import makes stays; to look for garbage in it takes a second
    tf = import_tensorflow()
    gc.freeze()
    gc.enable()
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise no_gpu()
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if job.train.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(job.train.threads)
    tf.config.experimental.enable_op_determinism()
    if gpus and device != "cpu":
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu"))
    return "cpu"


def _threads() -> int:
    """Return TensorFlow's configured threads, 0 if it chooses."""
    import tensorflow as tf

    return int(tf.config.threading.get_intra_op_parallelism_threads())
