"""Any number of workers ends in the weights of one, or in a clear error."""

from __future__ import annotations

import functools
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.fault_points import fault
from helpers.processes import end_of, run_command, start_command

from mnist_cnn import cpu, launch
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.training.distributed.group import ONE_WORKER, ConnectedGroup, Group
from mnist_cnn.training.epoch import Trainer
from mnist_cnn.training.model import weights_sha256

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


def build(config, input_shape, num_classes):
    noise = {noise}
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), noise, out])
"""
SEEDED = NETWORK.format(noise="layers.GaussianNoise(0.5, seed=2**62 + 1)")
"""No float64 is equal to this seed."""
FROZEN = NETWORK.format(noise="layers.Dense(7, trainable=False)")
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


def trainers_of(*overrides: str) -> list[tuple[Trainer, ConnectedGroup]]:
    """Return two workers, in this process, of a job."""
    job = launch.make_job(*TINY, *overrides)
    arrays = datasets.load(job.data)
    one, two = socket.socketpair()
    groups = ConnectedGroup(0, {1: one}, 60), ConnectedGroup(1, {0: two}, 60)
    return [(Trainer(job, arrays, group), group) for group in groups]


def trainer_of(network: str, home: Path) -> Trainer:
    """Return the trainer of a custom network with two shards."""
    (home / "network.py").write_text(network)
    job = launch.make_job(*TINY, "train.shards=2", f"model.file={home / 'network.py'}")
    return Trainer(job, datasets.load(job.data))


def trained(trainer: Trainer, group: Group) -> tuple[str, list[EpochRow]]:
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
        pytest.param(("SEEDED",), id="a layer's seed"),
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
    first.run_steps.group = ONE_WORKER
    evaluate, first.evaluate = first.evaluate, functools.partial(first.evaluate, group=ONE_WORKER)
    weights, rows = trained(first, ONE_WORKER)
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
    trainer = trainer_of(UNUSED, tmp_path)
    unused, kernel = trainer.model.trainable_variables[:2]
    before = kernel.numpy()

    trainer.run_epoch(1, lambda progress: None)

    assert unused.numpy().tolist() == [1, 1, 1]
    assert not np.array_equal(kernel.numpy(), before)


@pytest.mark.usefixtures("keras")
def test_frozen_weights_are_not_exchanged(tmp_path: Path) -> None:
    trainer = trainer_of(FROZEN, tmp_path)

    numbers, _ = trainer.run_steps._compute_shard(np.arange(4, dtype=np.int32), 0, 0.5, 1.0)  # noqa: SLF001

    assert len(numbers) == 7 * 10 + 10


@pytest.mark.usefixtures("keras")
def test_a_large_seed_stays_what_it_is(tmp_path: Path) -> None:
    trainer = trainer_of(SEEDED, tmp_path)
    (seed,) = trainer.run_steps.seeds

    trainer.run_epoch(1, lambda progress: None)

    assert seed.numpy().tolist() == [2**62 + 1, trainer.data.steps]


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
    with pytest.raises(ConfigurationError, match=message):
        trainer_of(network, tmp_path)


def test_a_sweep_whose_workers_have_more_threads_than_cpus_warns(tmp_path: Path) -> None:
    """Each of its runs does, before it trains; so it may end there."""
    shared = ("train.shards=2", f"train.threads={cpu.count()}", "backend.workers=2")
    killed = fault("kill", "worker 0", "connect", path=tmp_path / "point")
    ended = end_of(start_command("--multirun", *TINY, *shared, "seed=1,2", cwd=tmp_path, **killed))
    assert ended.code == BackendError.exit_code
    assert ended.out.count("more threads than CPUs; train.threads=") == 2


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
        (("train.shards=0",), "train.shards=0: must be a whole number from 1 to 1024"),
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
