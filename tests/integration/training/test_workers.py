"""Any number of workers ends in the weights of one, or in a clear error."""

from __future__ import annotations

import functools
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from helpers.processes import (
    end_of,
    result_of,
    run_command,
    run_successfully,
    start_command,
    wait_for_worker,
    wait_until,
)

from mnist_cnn import launch, run_folder
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.training.epoch import Trainer
from mnist_cnn.training.model import weights_sha256
from mnist_cnn.training.sharing.group import ALONE, Alone, Group

if TYPE_CHECKING:
    from mnist_cnn.result import EpochRow

TINY = (
    "data.train_limit=130", "data.test_limit=520", "train.batch_size=32", "train.epochs=2",
    "model.filters=[3,4,4]", "model.dense_units=8",
)  # fmt: skip
"""The last batch has two images, so two of four shards are empty. The test images are three batches."""
RECIPE = (
    "train.optimizer=adam", "train.learning_rate=0.01", "train.rotation=10",
    "train.shift=2", "train.label_smoothing=0.05", "train.schedule=one_cycle",
)  # fmt: skip
NETWORK = """
import keras
from keras import layers


class Noise(layers.Layer):
    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


def build(config, input_shape, num_classes):
    noise = {noise}
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), noise, out])
"""
SEEDED = NETWORK.format(noise="layers.GaussianNoise(0.5)")
GLOBALLY_SEEDED = NETWORK.format(noise="Noise()")
"""A network that draws from Keras' global seed, which is not one of its variables."""
COUNTING = """
import keras
from keras import layers


class Counting(layers.Layer):
    def build(self, shape):
        self.seen = self.add_weight((), "zeros", "int32", trainable=False, name="seen")

    def call(self, x):
        self.seen.assign_add(keras.ops.shape(x)[0])
        return x


def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Counting(), out])
"""
UNUSED = """
import keras
from keras import layers


class Scale(layers.Layer):
    def build(self, shape):
        self.unused = self.add_weight((3,), "ones", name="unused")

    def call(self, x):
        return x


def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Scale(), out])
"""
FROM_PYTHON = """
import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Noise(layers.Layer):
    def call(self, x):
        return x + tf.reshape(tf.numpy_function(np.random.rand, [1], tf.float64), ())


def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Noise(dtype="float64"), out])
"""


def trainers_of(*overrides: str) -> list[tuple[Trainer, Group]]:
    """Return two workers, in this process, of a job."""
    job = launch.make_job(*TINY, *overrides)
    arrays = datasets.load(job.data)
    one, two = socket.socketpair()
    groups = Group(0, {1: one}, 60), Group(1, {0: two}, 60)
    return [(Trainer(job, arrays, group), group) for group in groups]


def trained(trainer: Trainer, group: Alone) -> tuple[str, list[EpochRow]]:
    with group:
        rows = [trainer.run_epoch(number, lambda progress: None) for number in (1, 2)]
    return weights_sha256(trainer.model), rows


def measured(row: EpochRow) -> tuple[object, ...]:
    return row.loss, row.accuracy, row.val_loss, row.val_accuracy, row.loss_parts, row.learning_rate


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize(
    "job",
    [
        pytest.param(("model.batch_norm=true", "train.precision=bfloat16", *RECIPE), id="all of a recipe"),
        pytest.param(("train.numerics=exact", "train.class_weights=balanced", *RECIPE), id="exact"),
        pytest.param(("SEEDED",), id="custom network"),
    ],
)
def test_two_workers_end_in_the_weights_of_one(job: tuple[str, ...], tmp_path: Path) -> None:
    if job[0] in globals():
        (tmp_path / "network.py").write_text(globals()[job[0]])
        job = (f"model.file={tmp_path / 'network.py'}", *job[1:])
    workers = trainers_of("train.shards=4", *job)
    assert len({trainer.fingerprint() for trainer, _ in workers}) == 1  # this compiles them one by one
    first, group = workers[0]
    initial = first.state()
    first.run_steps.group = ALONE
    evaluate, first.evaluate = first.evaluate, functools.partial(first.evaluate, group=ALONE)
    weights, rows = trained(first, ALONE)
    first.restore(initial)
    first.run_steps.group, first.evaluate = group, evaluate

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(trained, *zip(*workers, strict=True)))

    for others, history in ends:
        assert others == weights
        assert list(map(measured, history)) == list(map(measured, rows))


@pytest.mark.usefixtures("keras")
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_weight_without_a_gradient_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(UNUSED)
    job = launch.make_job(*TINY, "train.shards=2", f"model.file={tmp_path / 'network.py'}")
    trainer = Trainer(job, datasets.load(job.data))
    unused, kernel = trainer.model.trainable_variables[:2]
    before = kernel.numpy()

    trainer.run_epoch(1, lambda progress: None)

    assert unused.numpy().tolist() == [1, 1, 1]
    assert not np.array_equal(kernel.numpy(), before)


def test_the_number_of_shards_is_part_of_the_job() -> None:
    one, two = (launch.make_job(*TINY, f"train.shards={shards}") for shards in (1, 2))

    assert one.digest == launch.make_job(*TINY).digest != two.digest


@pytest.mark.usefixtures("keras")
def test_each_shard_draws_its_own_dropout() -> None:
    """With equal images in all shards, equal draws would give equal gradients."""
    job = launch.make_job(*TINY, "train.shards=2", "model.conv_dropout=0.5")
    trainer = Trainer(job, datasets.load(job.data))
    steps, seen = trainer.run_steps, []
    for shard in (0, 1, 0):
        flat, *_ = steps._compute_shard(np.arange(4, dtype=np.int32), shard, 0.5, 1.0)  # noqa: SLF001
        seen.append(flat.numpy().tobytes())

    assert seen[0] == seen[2] != seen[1]


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (COUNTING, r"cannot combine the network's sequential\w*/counting/seen, which is int32"),
        (FROM_PYTHON, r"train.shards=2: the network calls Python while it trains"),
    ],
)
def test_a_network_whose_shards_cannot_be_combined_is_refused(
    network: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "network.py").write_text(network)
    job = launch.make_job(*TINY, "train.shards=2", f"model.file={tmp_path / 'network.py'}")

    with pytest.raises(ConfigurationError, match=message):
        Trainer(job, datasets.load(job.data))


@pytest.fixture
def slow_job(tmp_path: Path) -> tuple[str, ...]:
    """A job whose epochs take about half a second each."""
    (tmp_path / "network.py").write_text(GLOBALLY_SEEDED)
    size = ("data.train_limit=2000", "data.test_limit=250", "train.batch_size=16", "train.epochs=4")
    return ("model.file=network.py", "train.shards=4", "train.threads=1", *size)


def test_a_killed_worker_ends_the_run_and_any_number_resumes_it(
    tmp_path: Path, slow_job: tuple[str, ...]
) -> None:
    run_successfully(*slow_job, "run_dir=alone", cwd=tmp_path)
    process = start_command(*slow_job, "run_dir=run", "backend.workers=2", cwd=tmp_path)
    run = tmp_path / "run"
    worker = wait_for_worker(run, process)
    wait_until(lambda: list((run / "checkpoints").glob("*.sha256")), process)
    (other,) = [child for child in worker.children() if "--assist" in child.cmdline()]
    other.kill()
    assert end_of(process).code == BackendError.exit_code
    assert "worker 1 of 2 is gone" in (run / "log.txt").read_text()
    assert not worker.is_running()

    run_successfully("resume", "run", "backend.workers=4", cwd=tmp_path)

    assert result_of(run).weights_sha256 == result_of(tmp_path / "alone").weights_sha256
    assert run_folder.read_receipt(run).backend_settings["workers"] == 4


def test_a_killed_first_worker_leaves_no_other(tmp_path: Path, slow_job: tuple[str, ...]) -> None:
    process = start_command(*slow_job, "run_dir=run", "backend.workers=2", cwd=tmp_path)
    worker = wait_for_worker(tmp_path / "run", process)
    wait_until(lambda: any("--assist" in child.cmdline() for child in worker.children()), process)
    others = worker.children()
    worker.send_signal(signal.SIGKILL)

    assert end_of(process).code == BackendError.exit_code
    assert psutil.wait_procs(others, timeout=60)[1] == []


def test_workers_that_do_not_divide_the_shards_are_refused(tmp_path: Path) -> None:
    refused = run_command("train.shards=4", "backend.workers=3", "run_dir=run", cwd=tmp_path)

    assert refused.code == ConfigurationError.exit_code
    assert "backend.workers=3 does not divide train.shards=4" in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.shards=64", "train.batch_size=32"), "train.shards=64 is above train.batch_size=32"),
        (
            ("train.shards=8", "data.train_limit=7"),
            "train.shards=8 is above the number of training images, 7",
        ),
        (("train.shards=0",), "train.shards=0: allowed is a whole number from 1 to 1024"),
        (("train.shards=2", "backend.workers=2", "backend.device=gpu"), "train on the CPU"),
    ],
)
def test_shards_that_cannot_be_filled_are_refused(
    settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        launch.plan(*settings, f"runs_dir={tmp_path}")


def test_plan_names_the_workers(tmp_path: Path) -> None:
    lines = dict(launch.plan("train.shards=2", "backend.workers=2", f"runs_dir={tmp_path}").lines)

    assert lines["where"].startswith("2 workers on this machine's CPU")
    assert "in batches of 128 in 2 shards" in lines["train"]
