"""The compiled epoch: order, steps, optimizers, precision, and weights that are not finite."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from unittest.mock import Mock

import numpy as np
import pytest

from mnist_cnn import cpu, launch
from mnist_cnn.config import Optimizer, Precision, Schedule, TrainConfig
from mnist_cnn.data import datasets
from mnist_cnn.errors import TrainingError
from mnist_cnn.training import checkpoint, epoch, learner
from mnist_cnn.training.model import weights_sha256

if TYPE_CHECKING:
    from mnist_cnn.result import EpochRow, Progress

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

TINY = (
    "data.train_limit=200", "data.test_limit=50", "train.batch_size=32", "model.filters=[2]",
    "model.dense_units=4", "train.epochs=2",
)  # fmt: skip
"""A job that trains in a fraction of a second."""


def measured(row: EpochRow) -> tuple[object, ...]:
    return row.loss, row.accuracy, row.loss_parts, row.accuracy_parts


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch.permutation(seed, number, 1000) for seed, number in ((0, 1), (0, 2), (1, 1))]
    assert np.array_equal(epoch.permutation(0, 1, 1000), orders[0])
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_number_of_steps_per_call_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    job = launch.make_job(*TINY)
    arrays = datasets.load(job.data)
    monkeypatch.setattr(learner, "CURVE_POINTS", 6)
    rows, hashes, calls = [], [], []
    for seconds in (1e-9, 1e9):
        monkeypatch.setattr(epoch, "PROGRESS_SECONDS", seconds)
        trainer = epoch.Trainer(job, arrays)
        seen: list[Progress] = []
        rows += [trainer.run_epoch(number, seen.append) for number in (1, 2)]
        hashes.append(weights_sha256(trainer.model))
        calls.append(len(seen))
        assert trainer.sums.numpy()[2].tolist() == [96, 64, 40]  # images of the second epoch alone
    assert calls[0] == 14  # 7 steps of at most 32 images, twice
    assert calls[1] < 14
    assert hashes[0] == hashes[1]
    assert [measured(row) for row in rows[:2]] == [measured(row) for row in rows[2:]]
    for row in rows:
        assert len(row.loss_parts) == len(row.accuracy_parts) == 3  # of steps 1 to 3, 4 and 5, 6 and 7
        for mean, parts in ((row.loss, row.loss_parts), (row.accuracy, row.accuracy_parts)):
            assert np.average(parts, weights=[96, 64, 40]) == pytest.approx(mean, rel=1e-3)


def test_a_long_training_records_one_part_of_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts would make the files of a long training large otherwise."""
    monkeypatch.setattr(learner, "CURVE_POINTS", 1)
    job = launch.make_job(*TINY)
    row = epoch.Trainer(job, datasets.load(job.data)).run_epoch(1, lambda progress: None)
    assert [*row.loss_parts] == pytest.approx([row.loss], rel=1e-3)


def test_a_fingerprint_leaves_no_trace_and_compiles_nothing_again() -> None:
    job = launch.make_job(*TINY, "train.shift=2")
    trainer = epoch.Trainer(job, datasets.load(job.data))
    before = [array.tobytes() for array in trainer.state()], checkpoint.generators()
    run_steps = trainer.run_steps

    def draw_and_run(*arguments: object) -> None:  # as a custom network may
        random.random()  # noqa: S311
        np.random.random()  # noqa: NPY002
        run_steps(*arguments)

    trainer.run_steps = Mock(side_effect=draw_and_run)
    prints = {trainer.fingerprint(), trainer.fingerprint()}
    steps = [(int(call.args[1]), int(call.args[2])) for call in trainer.run_steps.call_args_list]
    assert steps == 2 * [(0, 3), (6, 7)]  # the last of 7 steps has 8 images, the others have 32
    assert ([array.tobytes() for array in trainer.state()], checkpoint.generators()) == before
    trainer.run_epoch(1, lambda progress: None)
    assert run_steps.experimental_get_tracing_count() == 1
    assert len(prints) == 1


def test_fingerprints_of_different_jobs_differ() -> None:
    jobs = [launch.make_job(*TINY, *change) for change in ((), ("train.shift=2",), ("data.train_limit=20",))]
    assert len({epoch.Trainer(job, datasets.load(job.data)).fingerprint() for job in jobs}) == 3


def test_one_cycle_spans_all_epochs_of_a_job() -> None:
    job = launch.make_job(*TINY, "train.schedule=one_cycle", "train.warmup=0.5", "train.learning_rate=0.1")
    trainer = epoch.Trainer(job, datasets.load(job.data))
    rates = [trainer.run_epoch(number, lambda progress: None).learning_rate for number in (1, 2)]
    assert rates == pytest.approx([0.1, 0.001])  # the peak after 7 of 14 steps, almost 0 after all


def test_the_augmentation_follows_the_seed_and_the_step() -> None:
    import tensorflow as tf

    images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    seen = []
    for seed in (0, 1):
        job = launch.make_job(*TINY, f"seed={seed}", "train.shift=2")
        trainer = epoch.Trainer(job, datasets.load(job.data))
        for step in (0, 1, 0):
            trainer.optimizer.iterations.assign(step)
            seen.append(
                trainer.augment(tf.constant(images), tf.constant(1.0), trainer.optimizer.iterations)
                .numpy()
                .tobytes()
            )
    assert (seen[0], seen[3]) == (seen[2], seen[5])
    assert len({*seen}) == 4


def test_weights_that_are_not_finite_fail_even_behind_a_relu() -> None:
    job = launch.make_job(*TINY)
    trainer = epoch.Trainer(job, datasets.load(job.data))
    kernel = trainer.model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with pytest.raises(TrainingError, match=r"NaN|the loss became nan"):
        trainer.run_epoch(1, lambda progress: None)


def test_auto_is_bfloat16_if_the_device_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is made up: the machines that run the tests need not have one."""
    import tensorflow as tf

    assert learner.effective_precision(Precision.bfloat16) is Precision.bfloat16
    for flag, expected in ((True, Precision.bfloat16), (False, Precision.float32)):
        monkeypatch.setattr(cpu, "computes_bfloat16", Mock(return_value=flag))
        assert learner.effective_precision(Precision.auto) is expected
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    for capability, expected in (((7, 5), Precision.float32), ((8, 0), Precision.bfloat16)):
        details = Mock(return_value={"compute_capability": capability})
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
        assert learner.effective_precision(Precision.auto) is expected


@pytest.mark.parametrize("name", Optimizer)
def test_every_optimizer_works_with_each_schedule(name: Optimizer) -> None:
    constant = learner.optimizer(TrainConfig(optimizer=name, learning_rate=0.5), steps=10)
    assert float(constant.learning_rate) == 0.5
    one_cycle = TrainConfig(optimizer=name, learning_rate=0.5, schedule=Schedule.one_cycle)
    assert float(learner.optimizer(one_cycle, steps=10).learning_rate) == pytest.approx(0.005)


def test_the_one_cycle_rate_rises_and_falls_in_straight_lines() -> None:
    from mnist_cnn.training.schedule import OneCycle

    rate = OneCycle(peak=2.0, steps=100, warmup=0.25)
    rates = [float(rate(step)) for step in (0, 5, 25, 40, 70, 99, 100)]
    assert rates == pytest.approx([0.02, 0.4, 2.0, 1.6, 0.8, 2.0 / 75, 0.02])
    for warmup in (0, 1):
        rate = OneCycle(peak=1.0, steps=4, warmup=warmup)
        assert all(0.0099 < float(rate(step)) <= 1 for step in range(5))
