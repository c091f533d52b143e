"""Precision, recall and F1 of each class."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cnn.config import Optimizer, TrainConfig
from mnist_cnn.result import ClassScores
from mnist_cnn.training.scores import chance_warning, class_scores, confusion_counts


def test_the_scores_are_those_of_a_worked_example() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.uint8)
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    counts = confusion_counts(labels, predicted, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert class_scores(counts) == (
        ClassScores(precision=0.75, recall=0.75, f1=0.75, support=4),
        ClassScores(precision=0.5, recall=2 / 3, f1=4 / 7, support=3),
        ClassScores(precision=None, recall=0.0, f1=0.0, support=1),  # never predicted
        ClassScores(precision=None, recall=None, f1=None, support=0),  # absent
    )


def test_labels_above_127_are_counted_in_their_class() -> None:
    counts = confusion_counts(np.array([255, 200], np.uint8), np.array([255, 255]), 256)
    assert counts[255, 255] == 1
    assert counts[200, 255] == 1
    assert counts.sum() == 2


GUESSES = np.array([[0, 40], [0, 60]])  # always class 1
ADAM = TrainConfig(optimizer=Optimizer.adam)


@pytest.mark.parametrize(
    ("config", "train_accuracy", "steps", "cause"),
    [
        (
            TrainConfig(optimizer=Optimizer.adam, learning_rate=1.0),
            0.6,
            5000,
            "far from 0.001, which suits adam",
        ),
        (TrainConfig(learning_rate=0.001), 0.6, 5000, "far from 1, which suits adadelta"),
        (ADAM, 0.95, 5000, "labels are of another kind"),
        (ADAM, 0.6, 8, "8 steps are too few; raise train.epochs"),
        (ADAM, 0.6, 5000, "labels do not belong to their images"),
    ],
)
def test_an_accuracy_that_guessing_has_too_is_warned_of(
    config: TrainConfig, train_accuracy: float, steps: int, cause: str
) -> None:
    warning = chance_warning(GUESSES, train_accuracy, steps, config)
    assert warning is not None
    assert "right for 60.00% of the test images, and the network for 60.00%" in warning
    assert cause in warning


def test_an_accuracy_two_deviations_better_is_not_warned_of() -> None:
    two, one = np.array([[15, 25], [5, 55]]), np.array([[5, 35], [0, 60]])
    assert chance_warning(two, 0.7, 8, ADAM) is None
    assert chance_warning(one, 0.7, 8, ADAM) is not None
