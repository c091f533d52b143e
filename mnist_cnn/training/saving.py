"""Evaluates a trained model and saves its result."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.config import Format, Precision
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.files import atomic
from mnist_cnn.prediction.predictor import CLASS_NAMES, PICTURES
from mnist_cnn.redaction import redact
from mnist_cnn.result import Result, describe_content, percent
from mnist_cnn.training import plots
from mnist_cnn.training.epoch import evaluate, predict_function
from mnist_cnn.training.model import weights_sha256
from mnist_cnn.training.scores import chance_warning, class_scores, confusion_counts

if TYPE_CHECKING:
    from pathlib import Path

    import keras

    from mnist_cnn.data.datasets import DataSet
    from mnist_cnn.job import Job
    from mnist_cnn.training.session import Session

H5 = "keras-tf-mnist.h5"
SAVED_FILES = (run_folder.MODEL, run_folder.ONNX, H5, *run_folder.PLOTS, run_folder.METRICS)

log = logging.getLogger("mnist_cnn")


def save_result(session: Session, arrays: DataSet, folder: Path, run_name: str, seconds: float) -> Result:
    """Evaluate and save the model; return the result.

    Writes plots and result.json too. `seconds` is how long the training took.
    """
    trainer, history = session.trainer, session.history
    job, model = trainer.job, trainer.float32_model()
    predict = predict_function(model, arrays.x_test.shape[1:])
    loss, accuracy, probabilities = evaluate(predict, arrays.x_test, arrays.y_test)
    note = ""
    if trainer.is_exact or trainer.precision is Precision.bfloat16:
        how = f"with {job.train.exact_bits}-bit operands" if trainer.is_exact else "in bfloat16"
        note = f" of the saved float32 model; the epochs were evaluated {how}"
    log.info("test loss %.4f, test accuracy %s%s", loss, percent(accuracy), note)
    metadata = {"run": run_name, "job_digest": job.digest, "accuracy": f"{accuracy:.4f}"}
    if job.data.class_names:
        metadata[CLASS_NAMES] = json.dumps(job.data.class_names)
    if job.data.pictures is not None:
        metadata[PICTURES] = job.data.pictures.value
    _save_model(job, model, folder, metadata)
    history_plot = folder / run_folder.HISTORY_PLOT
    plots.history(history, history_plot, held_out=job.data.held_out, saved_epoch=session.saved_epoch)
    counts = confusion_counts(arrays.y_test, probabilities.argmax(axis=1), job.data.classes)
    steps = trainer.data.steps * len(history)
    warning = chance_warning(counts, history[-1].accuracy, steps, job.train)
    if warning is not None:
        log.warning("%s", warning)
    names = job.data.class_names
    plots.confusion(counts, folder / run_folder.CONFUSION_PLOT, names)
    images = arrays.x_test.squeeze(axis=3 if job.data.format is Format.channels_last else 1)  # (N, 28, 28)
    plots.mistakes(images, arrays.y_test, probabilities, folder / run_folder.MISTAKES_PLOT, names)
    saved = (folder / name for name in SAVED_FILES)
    result = Result(
        job_digest=job.digest,
        accuracy=accuracy,
        loss=loss,
        history=tuple(history),
        seconds_per_epoch=sum(row.seconds for row in history) / len(history),
        training_seconds=seconds,
        weights_sha256=weights_sha256(model),
        changes=session.changes,
        numerics=job.train.numerics.value,
        saved_epoch=session.saved_epoch,
        classes=class_scores(counts, names),
        warnings=(warning,) if warning is not None else (),
        ended=time.time(),
        files={path.name: describe_content(path.read_bytes()) for path in saved if path.exists()},
        **dataclasses.asdict(session.runtime),
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
    """Name an ONNX model's tensors; store the metadata.

    Names the input, the output and the batch dimension.
    """
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
    """Write the tutorial's HDF5 file. Raises BackendError."""
    with atomic.replacing(path) as temporary:
        # Zeros, at least as many as the file's bytes, raise OSError if the disk is full; h5py would crash.
        temporary.write_bytes(bytes(2 * 4 * model.count_params()))
        model.save(temporary)
