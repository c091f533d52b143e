"""Training runs: equal weights from equal jobs, and what a run saves."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.processes import SMALL, result_of, run_command, run_successfully

from mnist_cnn import run_folder
from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.training.model import weights_sha256

if TYPE_CHECKING:
    from mnist_cnn.result import Result

# TensorFlow's and Keras' own warnings, which differ between versions of Python and NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def test_equal_jobs_in_two_processes_end_in_equal_weights(tmp_path: Path, small_run: Path) -> None:
    ended = run_command(*SMALL, "run_dir=run", cwd=tmp_path, KERAS_BACKEND="jax")  # the trainer ignores it
    assert ended.code == 0, ended.err
    again, before = result_of(tmp_path / "run"), result_of(small_run)
    for name in ("precision", "device", "versions", "fingerprint", "weights_sha256", "job_digest"):
        assert getattr(again, name) == getattr(before, name)


def test_a_training_that_learned_nothing_says_so_and_names_the_likely_cause(tmp_path: Path) -> None:
    far = ("train.optimizer=adam", "train.learning_rate=10")
    ended = run_successfully(*SMALL, *far, "run_dir=run", cwd=tmp_path)
    (warning,) = result_of(tmp_path / "run").warnings
    assert "train.learning_rate=10 is far from 0.001, which suits adam" in warning
    assert f"warning: {warning}" in ended.out
    assert f"warning: {warning}" in run_successfully("status", "run", cwd=tmp_path).out


def test_channels_first_sparse_labels_and_validation_train(tmp_path: Path) -> None:
    data = ("data.format=channels_first", "data.validation=200")
    loss = "train.loss=sparse_categorical_crossentropy"
    ended = run_successfully(*SMALL, *data, loss, "train.threads=1", "run_dir=run", cwd=tmp_path)
    assert "x_train (800, 1, 28, 28), y_train (800,)" in ended.out
    assert "x_validation (200, 1, 28, 28), y_validation (200,)" in ended.out
    assert " (val " in ended.out
    result = result_of(tmp_path / "run")
    assert result.threads == 1
    assert result.accuracy > 0.6
    assert result.accuracy != result.history[-1].val_accuracy
    images = datasets.load(DataConfig(test_limit=500))
    probabilities = load_predictor(tmp_path / "run")(images.x_test[..., 0])
    assert (probabilities.argmax(1) == images.y_test).mean() == pytest.approx(result.accuracy, abs=1e-9)


def test_bfloat16_trains_and_saves_a_plain_float32_model(tmp_path: Path, keras: ModuleType) -> None:
    ended = run_successfully(*SMALL, "train.precision=bfloat16", "run_dir=run", cwd=tmp_path)
    assert "of the saved float32 model; the epochs were evaluated in bfloat16" in ended.out
    result = result_of(tmp_path / "run")
    assert result.precision == "bfloat16"
    assert result.accuracy > 0.6
    model = keras.models.load_model(tmp_path / "run" / "model.keras", safe_mode=True)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert weights_sha256(model) == result.weights_sha256


def test_all_saved_models_predict_the_same(small_run: Path, keras: ModuleType) -> None:
    """Compare the Keras model, the tutorial's HDF5 file and, to 1e-5, ONNX on the whole test set."""
    images = datasets.load(DataConfig()).x_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ("model.keras", "keras-tf-mnist.h5")
        models = [keras.models.load_model(small_run / name, safe_mode=True) for name in names]
    check_is_compiled(models[0], images[:500], result_of(small_run))
    expected, from_h5 = (model.predict_on_batch(images.astype("float32") / 255) for model in models)
    assert np.array_equal(from_h5, expected)
    assert np.abs(load_predictor(small_run)(images[..., 0]) - expected).max() < 1e-5


def check_is_compiled(model: Any, images: Any, result: Result) -> None:
    """Check that Keras can evaluate a saved model at once, on the run's test set."""
    labels = datasets.load(DataConfig(test_limit=len(images))).y_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluated = model.evaluate(images.astype("float32") / 255, np.eye(10)[labels], verbose=0)
    assert evaluated == pytest.approx([result.loss, result.accuracy], rel=1e-4)


def test_the_onnx_model_names_its_tensors_and_its_run(small_run: Path) -> None:
    session = load_predictor(small_run).session
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("image", ["batch", 28, 28, 1])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", 10])
    result = result_of(small_run)
    metadata = {"run": "run", "job_digest": result.job_digest, "accuracy": f"{result.accuracy:.4f}"}
    assert session.get_modelmeta().custom_metadata_map == metadata


def test_the_run_folder_holds_the_documented_files(small_run: Path) -> None:
    names = {path.name for path in small_run.iterdir()}
    assert names == {
        "job.json", "run.json", "log.txt", "metrics.jsonl", "result.json", "model.keras", "model.onnx",
        "keras-tf-mnist.h5", "history.png", "confusion.png", "mistakes.png", "checkpoints", ".lock",
    }  # fmt: skip
    saved = sorted(path.name for path in (small_run / "checkpoints").iterdir())
    assert saved == ["epoch-000001.npz", "epoch-000001.sha256", "epoch-000002.npz", "epoch-000002.sha256"]
    result = json.loads((small_run / "result.json").read_text())
    assert set(result) == {
        "schema", "job_digest", "accuracy", "loss", "history", "seconds_per_epoch", "training_seconds",
        "weights_sha256", "numerics", "precision", "device", "processor", "threads", "versions", "files",
        "changes", "environment", "fingerprint", "saved_epoch",
        "classes", "warnings", "ended", "sha256",
    }  # fmt: skip
    assert result["job_digest"] == run_folder.read_job(small_run).digest
    assert set(result["versions"]) == {"keras", "mnist_cnn", "numpy", "tensorflow"}
