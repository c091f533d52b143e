"""The recipes: what they choose, that each key can still be set singly, and that they are deterministic."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.processes import run_command

from mnist_cnn import compose, run_folder
from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.training.model import check_network

# TensorFlow's and Keras' own, as in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

RECIPES = compose.options("train")

TRAIN_ALL = """
import sys
import json
import tensorflow as tf
from mnist_cnn import data, launch
from mnist_cnn.model import weights_sha256
from mnist_cnn.trainer import Trainer

tf.config.experimental.enable_op_determinism()
small = ("data.train_limit=400", "data.test_limit=50", "train.batch_size=32", "train.epochs=2")
hashes = {}
for recipe in sys.argv[1:]:
    for precision in ("float32", "bfloat16"):
        settings = (f"train={recipe}", f"train.precision={precision}", "train.unaugmented_epochs=1")
        job = launch.make_job(*settings, *small)
        trainer = Trainer(job, data.load(job.data))
        for epoch in (1, 2):
            trainer.run_epoch(epoch, lambda progress: None)
        hashes[f"{recipe} {precision}"] = weights_sha256(trainer.float32_model())
print(json.dumps(hashes))
"""


def test_the_recipes_are_these() -> None:
    assert RECIPES == ["accurate", "balanced", "quick", "tutorial"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_brings_its_network_and_gives_way_to_what_is_set_singly(recipe: str) -> None:
    chosen = compose.load([f"train={recipe}"])
    check_network(chosen.model, 28, 28)
    other = compose.load([f"train={recipe}", "model=cnn", "train.epochs=2", "train.shift=1"])
    assert other.model == compose.load(["model=cnn"]).model
    assert (other.train.epochs, other.train.shift) == (2, 1)
    assert other.train.learning_rate == chosen.train.learning_rate
    narrower = compose.load([f"train={recipe}", "model.filters=[8,8,8]"])
    assert narrower.model.filters == (8, 8, 8)
    assert narrower.model.batch_norm == chosen.model.batch_norm


def test_every_recipe_in_every_precision_ends_in_equal_weights_in_two_processes() -> None:
    command = [sys.executable, "-P", "-c", TRAIN_ALL, *RECIPES]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed[0][1][-2000:]
    first, second = (json.loads(out) for out, _ in printed)
    assert first == second
    assert len(set(first.values())) == 2 * len(RECIPES)


def test_a_recipe_resumed_in_its_augmented_part_ends_in_the_same_weights(
    tmp_path: Path, keras: ModuleType
) -> None:
    """The schedule, the augmentation and the moving statistics go on where they were."""
    settings = (
        "train=balanced", "train.unaugmented_epochs=0", "train.epochs=3", "data.train_limit=2000",
        "data.test_limit=200",
    )  # fmt: skip
    whole = run_command(*settings, "run_dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    parts = run_command(*settings, "run_dir=parts", cwd=tmp_path)
    assert parts.code == 0, parts.err
    folder = tmp_path / "parts"
    for name in ("result.json", "checkpoints/epoch-000003.npz", "checkpoints/epoch-000003.sha256"):
        (folder / name).unlink()
    receipt = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**receipt, "status": "running", "exit_code": None}))
    resumed = run_command("resume", "parts", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "going on after epoch 2 of 3" in resumed.out
    results = [run_folder.read_result(tmp_path / name) for name in ("whole", "parts")]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].weights_sha256 == results[1].weights_sha256
    assert [row.val_loss for row in results[0].history] == [row.val_loss for row in results[1].history]
    check_saved_models(tmp_path / "whole", keras)


def check_saved_models(run: Path, keras: ModuleType) -> None:
    """Check that Keras, in its safe mode and without this package's layers, and ONNX predict the same."""
    images = datasets.load(DataConfig()).x_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.models.load_model(run / "model.keras", safe_mode=True)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    expected = model.predict_on_batch(images.astype("float32") / 255)
    assert np.abs(load_predictor(run)(images[..., 0]) - expected).max() < 1e-5
