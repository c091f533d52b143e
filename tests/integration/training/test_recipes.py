"""The recipes: their settings can be changed one by one, and their weights are reproducible."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.copies import interrupted_copy
from helpers.processes import result_of, run_successfully

from mnist_cnn import compose, launch
from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.prediction.predictor import load_predictor

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

RECIPES = compose.options("train")

TRAIN_ALL = """
import sys
import json
import tensorflow as tf
from mnist_cnn import launch
from mnist_cnn.data import datasets
from mnist_cnn.training.epoch import Trainer
from mnist_cnn.training.model import weights_sha256

tf.config.experimental.enable_op_determinism()
small = ("data.train_limit=80", "data.test_limit=50", "train.batch_size=32", "train.epochs=2")
hashes = {}
for recipe in sys.argv[1:]:
    for precision in ("float32", "bfloat16") if recipe == "tutorial" else ("bfloat16",):
        settings = (f"train={recipe}", f"train.precision={precision}", "train.unaugmented_epochs=1")
        job = launch.make_job(*settings, *small)
        trainer = Trainer(job, datasets.load(job.data))
        for epoch in (1, 2):
            trainer.run_epoch(epoch, lambda progress: None)
        hashes[f"{recipe} {precision}"] = weights_sha256(trainer.model)
print(json.dumps(hashes))
"""


@pytest.mark.long
def test_every_recipe_has_reproducible_weights() -> None:
    """Compare the weights of two processes."""
    command = [sys.executable, "-P", "-c", TRAIN_ALL, *RECIPES]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed[0][1][-2000:]
    first, second = (json.loads(out) for out, _ in printed)
    assert first == second
    assert len(set(first.values())) == len(RECIPES) + 1


def test_a_recipe_resumes_to_the_same_weights_while_it_augments(tmp_path: Path, keras: ModuleType) -> None:
    """The schedule, the augmentation and the moving statistics continue where they were."""
    settings = (
        "train=balanced", "train.unaugmented_epochs=0", "train.epochs=3", "data.train_limit=300",
        "data.test_limit=100",
    )  # fmt: skip
    run_successfully(*settings, "run_dir=whole", cwd=tmp_path)
    folder = interrupted_copy(tmp_path / "whole", tmp_path / "parts", after=2)
    resumed = launch.resume(str(folder)).wait()
    assert "resuming after epoch 2 of 3" in (folder / "log.txt").read_text()
    whole = result_of(tmp_path / "whole")
    assert resumed.weights_sha256 == whole.weights_sha256
    assert [row.val_loss for row in resumed.history] == [row.val_loss for row in whole.history]
    check_saved_models(tmp_path / "whole", keras)


def check_saved_models(run: Path, keras: ModuleType) -> None:
    """Check that ONNX predicts the same as Keras, in safe mode and without this package's layers."""
    images = datasets.load(DataConfig(test_limit=1000)).x_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.models.load_model(run / "model.keras", safe_mode=True)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    expected = model.predict_on_batch(images.astype("float32") / 255)
    assert np.abs(load_predictor(run)(images[..., 0]) - expected).max() < 1e-5
