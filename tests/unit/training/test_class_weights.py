"""How much the images of each class count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mnist_cnn import launch
from mnist_cnn.config import ClassWeights
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.job import Job
from mnist_cnn.training.class_weights import weights_of
from mnist_cnn.training.epoch import Trainer

TINY = ("data.train_limit=64", "data.test_limit=10", "model.filters=[2]", "model.dense_units=4")
LIST = "train.class_weights=[1,2,1,1,1,1,1,1,1,0.5]"


def test_balanced_weights_are_those_of_a_worked_example() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 3, 3], np.uint8)
    weights = weights_of(ClassWeights.balanced, labels, 4)
    assert weights is not None
    assert weights.tolist() == pytest.approx([8 / 12, 8 / 6, 0, 8 / 6])
    assert weights[labels].mean() == pytest.approx(1)
    assert weights.dtype == np.float32


def test_class_weights_are_part_of_the_job_if_they_are_set() -> None:
    plain, balanced, given = (
        launch.make_job(*overrides) for overrides in ((), ("train.class_weights=balanced",), (LIST,))
    )
    assert len({plain.digest, balanced.digest, given.digest}) == 3
    assert plain.changes_to(balanced) == ("train.class_weights=balanced (was null)",)
    for job in (balanced, given):
        assert Job.from_json(job.to_json()) == job
    assert "class weights [1.0,2.0," in dict(launch.plan(LIST).lines)["train"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[1,2]", "train.class_weights=[1.0,2.0]: 2 weights for 10 classes"),
        ("[]", "train.class_weights=[]: 0 weights for 10 classes"),
        (
            "[1,0]",
            "train.class_weights=[1,0]: must be balanced, or a list of numbers above 0 to 1000, or null",
        ),
        ("equal", "train.class_weights=equal: must be balanced, or a list of numbers"),
        ("[a]", "train.class_weights=[a]: must be balanced, or a list of numbers"),
        ("2", "train.class_weights=2: must be balanced, or a list of numbers"),
    ],
)
def test_weights_that_do_not_fit_the_classes_are_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        launch.make_job(f"train.class_weights={given}")
    assert refused.value.message.startswith(message)


def gradients_of(digit: int, *overrides: str) -> tuple[list[Any], float]:
    """Return the gradients and the loss of the images of a digit, in a network that is always the same."""
    job = launch.make_job(*TINY, *overrides)
    arrays = datasets.load(job.data)
    rows = np.flatnonzero(arrays.y_train == digit).astype(np.int32)
    gradients, counts = Trainer(job, arrays).gradients(rows, np.float32(0), np.int64(0))
    return [gradient.numpy() for gradient in gradients], counts.numpy()[0] / len(rows)


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize(
    "numerics",
    [
        (),
        ("train.loss=sparse_categorical_crossentropy",),
        ("train.label_smoothing=0.1", "train.precision=bfloat16"),
        ("train.numerics=exact", "train.label_smoothing=0.1"),
    ],
    ids=["native", "sparse", "bfloat16", "exact"],
)
@pytest.mark.parametrize(("digit", "weight"), [(1, 2.0), (9, 0.5)])
def test_the_loss_of_an_image_is_multiplied_by_the_weight_of_its_class(
    numerics: tuple[str, ...], digit: int, weight: float
) -> None:
    no_dropout = ("model.conv_dropout=0", "model.dense_dropout=0")
    plain, loss = gradients_of(digit, *no_dropout, *numerics)
    weighted, weighted_loss = gradients_of(digit, *no_dropout, *numerics, LIST)
    assert weighted_loss == pytest.approx(weight * loss, rel=1e-6)
    for gradient, expected in zip(weighted, plain, strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(gradient, weight * expected, rtol=1e-5, atol=1e-7)
