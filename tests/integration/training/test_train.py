"""Training runs: equal weights from equal jobs, and what a run saves."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.processes import SMALL, result_of, run_successfully

from mnist_cnn import run_folder
from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.training.model import weights_sha256

# TensorFlow's and Keras' own warnings, which differ between versions of Python and NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def test_equal_jobs_in_two_processes_end_in_equal_weights(tmp_path: Path, small_run: Path) -> None:
    run_successfully(*SMALL, "run_dir=run", cwd=tmp_path)
    again, before = result_of(tmp_path / "run"), result_of(small_run)
    for name in ("precision", "device", "processor", "threads", "versions", "weights_sha256", "job_digest"):
        assert getattr(again, name) == getattr(before, name)


def test_channels_first_sparse_labels_and_validation_train(tmp_path: Path) -> None:
    data = ("data.format=channels_first", "data.validation=200")
    loss = "train.loss=sparse_categorical_crossentropy"
    ended = run_successfully(*SMALL, *data, loss, "run_dir=run", cwd=tmp_path)
    assert "x_train (800, 1, 28, 28), y_train (800,)" in ended.out
    assert "x_validation (200, 1, 28, 28), y_validation (200,)" in ended.out
    assert "validation accuracy" in ended.out
    result = result_of(tmp_path / "run")
    assert result.accuracy > 0.6
    assert result.accuracy != result.history[-1].val_accuracy
    images = datasets.load(DataConfig(test_limit=500))
    probabilities = load_predictor(tmp_path / "run")(images.x_test[..., 0])
    assert (probabilities.argmax(1) == images.y_test).mean() == pytest.approx(result.accuracy, abs=1e-9)


def test_bfloat16_trains_and_saves_a_plain_float32_model(tmp_path: Path, keras: ModuleType) -> None:
    run_successfully(*SMALL, "train.precision=bfloat16", "run_dir=run", cwd=tmp_path)
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
    expected, from_h5 = (model.predict_on_batch(images.astype("float32") / 255) for model in models)
    assert np.array_equal(from_h5, expected)
    assert np.abs(load_predictor(small_run)(images[..., 0]) - expected).max() < 1e-5


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
        "weights_sha256", "precision", "device", "processor", "threads", "versions", "files", "changes",
        "sha256",
    }  # fmt: skip
    assert result["job_digest"] == run_folder.read_job(small_run).digest
    assert set(result["versions"]) == {"keras", "mnist_cnn", "numpy", "tensorflow"}
