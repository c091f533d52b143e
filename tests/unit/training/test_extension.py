"""Which completed trainings can have more epochs."""

from __future__ import annotations

import dataclasses

import pytest

from mnist_cnn import launch
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.result import EpochRow
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoint
from mnist_cnn.training.extension import extended
from mnist_cnn.training.runtime import Runtime

VALIDATION = "data.validation=100"


def last_checkpoint(*overrides: str, losses: tuple[float, ...] = (0.5, 0.6, 0.7)) -> Checkpoint:
    job = launch.make_job("train.epochs=3", *overrides)
    rows = tuple(EpochRow(epoch, 1.0, 0.5, loss, 0.5, 1.0, 2.0) for epoch, loss in enumerate(losses, 1))
    return Checkpoint(job, Runtime("float32", "cpu", "x86_64", 2, {}), rows, (), checkpoint.generators())


@pytest.mark.parametrize(
    ("overrides", "epochs", "reason"),
    [
        ((), 3, "the run has 3 epochs already"),
        ((), 1, "the run has 3 epochs already"),
        (
            ("train.schedule=one_cycle",),
            9,
            "train.schedule=one_cycle has planned the learning rates for 3 epochs",
        ),
        (("train.unaugmented_epochs=1",), 9, "train.unaugmented_epochs=1 were the last of 3"),
        (
            (VALIDATION, "train.stop_patience=2"),
            9,
            "the run stopped after epoch 3, as train.stop_patience=2 says",
        ),
    ],
)
def test_more_epochs_are_refused_with_the_reason(
    overrides: tuple[str, ...], epochs: int, reason: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        extended(last_checkpoint(*overrides), epochs)
    assert refused.value.message == f"train.epochs={epochs} cannot continue this run: {reason}"
    assert refused.value.hint == f"start a new run with train.epochs={epochs}"


@pytest.mark.parametrize("overrides", [(), (VALIDATION, "train.stop_patience=3", "train.keep=best")])
def test_the_longer_job_is_that_of_a_training_from_scratch(overrides: tuple[str, ...]) -> None:
    before = last_checkpoint(*overrides)
    longer = extended(before, 9)
    assert longer.job == launch.make_job(*overrides, "train.epochs=9")
    assert dataclasses.replace(longer, job=before.job) == before
