"""Precision, recall and F1 of each class."""

from __future__ import annotations

import numpy as np

from mnist_cnn.result import ClassScores
from mnist_cnn.training.scores import class_scores, confusion_counts


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
