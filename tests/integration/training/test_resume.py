"""What resumes to the same weights, and what is refused because it would not."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import SMALL, TINY, result_of, resume, run_command, run_successfully

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoints
from mnist_cnn.training.train import train

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

NETWORK = """
import random

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def drawn(x):
    return (np.random.normal(size=x.shape) + random.random()).astype(np.float32)


class Noise(layers.Layer):
    def call(self, x, training=False):
        return x + {noise} if training else x


def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Noise(), out])
"""
FROM_KERAS_AND_PYTHON = NETWORK.format(
    noise="keras.random.normal(keras.ops.shape(x))"
    " + tf.reshape(tf.numpy_function(drawn, [x], tf.float32), tf.shape(x))"
)
"""Its draws use Keras' global seed, which isn't one of its variables, and generators of Python and NumPy."""
FROM_TENSORFLOW = NETWORK.format(noise="tf.random.normal(tf.shape(x))")


def change_job(folder: Path, **train: object) -> None:
    """Change job.json by hand."""
    job = json.loads((folder / "job.json").read_text())
    job["train"] |= train
    (folder / "job.json").write_text(json.dumps(job))


def test_only_force_resumes_a_changed_job_and_marks_the_result(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    change_job(folder, learning_rate=0.5)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refused = run_command("resume", "run", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert "run cannot be resumed, because this has changed: train.learning_rate=0.5 (was 1.0)" in refused.err
    assert "resume run force=true" in refused.err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    registered = ("register.name=forced", "register.min_accuracy=0")
    forced = run_successfully("resume", "run", "force=true", *registered, cwd=tmp_path)
    change = "since epoch 2: train.learning_rate=0.5 (was 1.0)"
    assert result_of(folder).changes == (change,)
    assert result_of(folder).job_digest == run_folder.read_job(folder).digest
    assert change in forced.out
    model = json.loads((tmp_path / "models" / "forced" / "1" / "model.json").read_text())
    assert model["changes"] == [change]


def test_changed_packages_are_refused_before_anything_starts(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    receipt = run_folder.read_receipt(folder)
    older = {**receipt.versions, "keras": "3.14.9"}
    run_folder.write_receipt(folder, dataclasses.replace(receipt, versions=older))
    with pytest.raises(ConfigurationError, match=rf"keras {receipt.versions['keras']} \(was 3\.14\.9\)"):
        resume(folder)
    assert run_folder.read_receipt(folder).status is Status.running


def test_only_force_resumes_where_the_first_steps_compute_other_numbers(
    tmp_path: Path, small_run: Path
) -> None:
    folder, whole = interrupted_copy(small_run, tmp_path / "run", after=1), result_of(small_run)
    threads = str(whole.threads + 1)
    refused = run_command("resume", "run", cwd=tmp_path, TF_NUM_INTRAOP_THREADS=threads)
    assert refused.code == ConfigurationError.exit_code
    assert f"was {str(whole.fingerprint)[:8]})" in refused.err
    assert "resume run force=true" in refused.err
    assert f"threads {threads} (was {whole.threads})" in refused.err
    assert f"TF_NUM_INTRAOP_THREADS={threads} (was not set)" in refused.err
    assert run_folder.read_receipt(folder).status is Status.failed
    forced = run_command("resume", "run", "force=true", cwd=tmp_path, TF_NUM_INTRAOP_THREADS=threads)
    assert forced.code == 0, forced.err
    result = result_of(folder)
    assert "fingerprint" in result.changes[0]
    assert result.fingerprint != whole.fingerprint
    assert result.threads == whole.threads + 1


@pytest.mark.usefixtures("keras")
def test_a_damaged_checkpoint_is_skipped(
    tmp_path: Path, small_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=2)
    newest = folder / "checkpoints" / "epoch-000002.npz"
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.INFO, "mnist_cnn"):
        result = train(run_folder.read_job(folder), folder)
    assert "checkpoint epoch-000002.npz is damaged" in caplog.text
    assert "after epoch 1 of 2" in caplog.text
    assert result.weights_sha256 == result_of(small_run).weights_sha256
    assert result.changes == ()


@pytest.mark.usefixtures("keras")
def test_without_a_sound_checkpoint_the_run_starts_again(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    (folder / "checkpoints" / "epoch-000001.npz").write_bytes(b"")
    result = train(run_folder.read_job(folder), folder)
    assert result.weights_sha256 == result_of(small_run).weights_sha256
    assert [row.epoch for row in result.history] == [1, 2]


@pytest.mark.usefixtures("keras")
def test_checkpoint_every_sets_the_distance_of_checkpoints(tmp_path: Path) -> None:
    train(launch.make_job(*TINY, "train.epochs=5", "train.checkpoint_every=3"), tmp_path)
    names = sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.npz"))
    assert names == ["epoch-000003", "epoch-000005"]


def test_a_network_that_draws_random_numbers_resumes_exactly(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(FROM_KERAS_AND_PYTHON)
    run_successfully(*TINY, "train.epochs=2", "model.file=noisy.py", "run_dir=whole", cwd=tmp_path)
    whole = result_of(tmp_path / "whole")
    result = resume(interrupted_copy(tmp_path / "whole", tmp_path / "parts", after=1)).wait()
    assert result.history[1].loss == whole.history[1].loss
    assert result.weights_sha256 == whole.weights_sha256


def test_a_network_whose_draws_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(FROM_TENSORFLOW)
    ended = run_command(*SMALL, "model.file=noisy.py", cwd=tmp_path)
    assert ended.code == ConfigurationError.exit_code, ended.err
    assert "the network draws with TensorFlow's RandomStandardNormal, whose state no checkpoint" in ended.err
    assert "keras.random" in ended.err


def test_only_resume_takes_force(tmp_path: Path) -> None:
    for verb in ("train", "plan"):
        refused = run_command(verb, "force=true", cwd=tmp_path)
        assert refused.code == ConfigurationError.exit_code
        assert "only resume takes force=true" in refused.err
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_holds_what_the_result_names(small_run: Path) -> None:
    found = Checkpoints(small_run / "checkpoints").newest()
    assert found is not None
    result = result_of(small_run)
    named = {field.name: getattr(result, field.name) for field in dataclasses.fields(found.runtime)}
    assert dataclasses.asdict(found.runtime) == named
    assert found.history == result.history
    assert found.job == run_folder.read_job(small_run)
    assert found.generators.keys() == checkpoint.generators().keys()
