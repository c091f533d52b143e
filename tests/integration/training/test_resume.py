"""Going on exactly: what resumes to the same weights, and what is refused because it could not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import SMALL, run_command

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from mnist_cnn.result import Result

NOISY = """
import keras
from keras import layers


class Noise(layers.Layer):
    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Noise(), out])
"""
"""A network that draws from Keras' global seed, which is none of its variables."""
DRAWN = """
def drawn(x):
    return (np.random.normal(size=x.shape) + random.random()).astype(np.float32)


def noise(x):
    return tf.numpy_function(drawn, [x], tf.float32)


"""
"""What makes it draw from the global generators of Python and NumPy instead."""


def result_of(folder: Path) -> Result:
    result = run_folder.read_result(folder)
    assert result is not None
    return result


def change_job(folder: Path, **train: object) -> None:
    """Change job.json by hand."""
    job = json.loads((folder / "job.json").read_text())
    job["train"] |= train
    (folder / "job.json").write_text(json.dumps(job))


def test_a_changed_job_is_refused_naming_the_change_and_goes_on_by_force_with_a_mark(
    tmp_path: Path, small_run: Path
) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    change_job(folder, learning_rate=0.5)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refused = run_command("resume", "run", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert "run cannot be resumed, because this has changed: train.learning_rate=0.5 (was 1.0)" in refused.err
    assert "resume run force=true" in refused.err
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    forced = run_command(
        "resume", "run", "force=true", "register.name=forced", "register.min_accuracy=0", cwd=tmp_path
    )
    assert forced.code == 0, forced.err
    change = "since epoch 2: train.learning_rate=0.5 (was 1.0)"
    assert result_of(folder).changes == (change,)
    assert result_of(folder).job_digest == run_folder.read_job(folder).digest
    assert change in forced.out
    model = json.loads((tmp_path / "models" / "forced" / "1" / "model.json").read_text())
    assert model["changes"] == [change]


def test_other_packages_are_refused_before_anything_starts(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    receipt = run_folder.read_receipt(folder)
    older = {**receipt.versions, "keras": "3.14.9"}
    run_folder.write_receipt(folder, dataclasses.replace(receipt, versions=older))
    with pytest.raises(ConfigurationError, match=rf"keras {receipt.versions['keras']} \(was 3\.14\.9\)"):
        launch.resume(str(folder))
    assert run_folder.read_receipt(folder).status is Status.running


def test_another_machine_is_refused_by_the_trainer_and_goes_on_by_force_with_a_mark(
    tmp_path: Path, small_run: Path
) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    kept = Checkpoints(folder / "checkpoints")
    found = kept.newest()
    assert found is not None
    elsewhere = dataclasses.replace(found.runtime, processor="aarch64 sve", threads=64)
    kept.save(dataclasses.replace(found, runtime=elsewhere))
    refused = run_command("resume", "run", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert "(was aarch64 sve)" in refused.err
    assert "(was 64)" in refused.err
    assert run_folder.read_receipt(folder).status is Status.failed
    result = launch.resume(str(folder), "force=true").wait()
    assert "aarch64 sve" in result.changes[0]
    assert result.weights_sha256 == result_of(small_run).weights_sha256  # for nothing else has changed


def test_a_damaged_checkpoint_costs_an_epoch_and_no_bit(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=2)
    newest = folder / "checkpoints" / "epoch-000002.npz"
    newest.write_bytes(newest.read_bytes()[:-1])
    result = launch.resume(str(folder)).wait()
    log = (folder / "log.txt").read_text()
    assert "checkpoint epoch-000002.npz is damaged and passed over" in log
    assert "going on after epoch 1 of 2" in log
    assert result.weights_sha256 == result_of(small_run).weights_sha256
    assert result.changes == ()


def test_without_any_sound_checkpoint_it_begins_anew(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    (folder / "checkpoints" / "epoch-000001.npz").write_bytes(b"")
    result = launch.resume(str(folder)).wait()
    assert result.weights_sha256 == result_of(small_run).weights_sha256
    assert [row.epoch for row in result.history] == [1, 2]


def test_checkpoints_are_as_far_apart_as_asked_and_the_last_epoch_has_one(tmp_path: Path) -> None:
    job = (*SMALL, "data.train_limit=100", "train.epochs=5", "train.checkpoint_every=3")
    ended = run_command(*job, "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    names = sorted(path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.npz"))
    assert names == ["epoch-000003", "epoch-000005"]
    assert launch.make_job(*job).digest == launch.make_job(*job, "train.checkpoint_every=1").digest


def test_a_network_that_draws_from_the_global_seed_resumes_to_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    job = (*SMALL, "data.train_limit=200", "model.file=noisy.py")
    whole = run_command(*job, "run_dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    folder = interrupted_copy(tmp_path / "whole", tmp_path / "parts", after=1)
    result = launch.resume(str(folder)).wait()
    assert result.history[1].loss == result_of(tmp_path / "whole").history[1].loss
    assert result.weights_sha256 == result_of(tmp_path / "whole").weights_sha256


def test_a_network_that_draws_from_pythons_and_numpys_generators_resumes_to_the_same_weights(
    tmp_path: Path,
) -> None:
    (tmp_path / "noisy.py").write_text(
        NOISY.replace("x + keras.random.normal(keras.ops.shape(x))", "x + tf.reshape(noise(x), tf.shape(x))")
        .replace(
            "import keras\n",
            "import random\n\nimport keras\nimport numpy as np\nimport tensorflow as tf\n",
            1,
        )
        .replace("class Noise", DRAWN + "class Noise")
    )
    job = (*SMALL, "data.train_limit=200", "model.file=noisy.py")
    whole = run_command(*job, "run_dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    folder = interrupted_copy(tmp_path / "whole", tmp_path / "parts", after=1)
    result = launch.resume(str(folder)).wait()
    assert result.weights_sha256 == result_of(tmp_path / "whole").weights_sha256


def test_a_network_whose_draws_cannot_be_saved_is_refused_before_it_trains(tmp_path: Path) -> None:
    text = NOISY.replace("keras.random.normal", "tf.random.normal").replace(
        "import keras\n", "import keras\nimport tensorflow as tf\n", 1
    )
    (tmp_path / "noisy.py").write_text(text)
    ended = run_command(*SMALL, "model.file=noisy.py", cwd=tmp_path)
    assert ended.code == ConfigurationError.exit_code, ended.err
    assert "the network draws with TensorFlow's RandomStandardNormal, whose state no checkpoint" in ended.err
    assert "keras.random" in ended.err


def test_force_is_refused_where_nothing_is_resumed(tmp_path: Path) -> None:
    for verb in ("train", "plan"):
        refused = run_command(verb, "force=true", cwd=tmp_path)
        assert refused.code == ConfigurationError.exit_code
        assert "only resume takes force=true" in refused.err
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_this_job_holds_all_that_a_result_names(small_run: Path) -> None:
    found = Checkpoints(small_run / "checkpoints").newest()
    assert found is not None
    result = result_of(small_run)
    named = {field.name: getattr(result, field.name) for field in dataclasses.fields(found.runtime)}
    assert dataclasses.asdict(found.runtime) == named
    assert found.history == result.history
    assert found.job == run_folder.read_job(small_run)
    assert found.generators.keys() == checkpoint.generators().keys()
