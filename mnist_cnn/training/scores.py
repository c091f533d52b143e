"""How well each class is recognised, and whether the network has learned anything at all.

Both follow from the counts of a confusion matrix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mnist_cnn.result import ClassScores, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mnist_cnn.config import TrainConfig

FAR = 20
"""How many times larger or smaller than the optimizer's own a learning rate is suspected."""
FEW_STEPS = 100


def confusion_counts(labels: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Return counts of images by class and prediction.

    Rows are true classes, columns predicted ones. `labels` and `predicted` are integers (N,) below
    `num_classes`.
    """
    import numpy as np

    pairs = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(counts: NDArray[np.int64], names: Sequence[str] = ()) -> tuple[ClassScores, ...]:
    """Return each class's scores, from `confusion_counts`."""
    of_true, of_predicted = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    return tuple(
        ClassScores(
            precision=_share(right, predicted),
            recall=_share(right, true),
            f1=_share(2 * right, true + predicted),
            support=true,
            name=name,
        )
        for right, true, predicted, name in zip(
            counts.diagonal().tolist(), of_true, of_predicted, names or [""] * len(of_true), strict=True
        )
    )


def chance_warning(
    counts: NDArray[np.int64], train_accuracy: float, steps: int, config: TrainConfig
) -> str | None:
    """Warn of a test accuracy that says nothing, and name its likely cause.

    It says nothing if always answering the most frequent class has it too, within two standard deviations of
    that. `steps` are all that were trained, `train_accuracy` in [0, 1] is the last epoch's.
    """
    images = int(counts.sum())
    accuracy, chance = int(counts.trace()) / images, int(counts.sum(axis=1).max()) / images
    margin = 2 * math.sqrt(chance * (1 - chance) / images)
    if accuracy > chance + margin:
        return None
    return (
        "the network has learned nothing of use: always answering the most frequent class is right for "
        f"{percent(chance)} of the test images, and the network for {percent(accuracy)}. "
        f"Likely cause: {_likely_cause(train_accuracy > chance + margin, steps, config)}"
    )


def _likely_cause(learned_training_images: bool, steps: int, config: TrainConfig) -> str:  # noqa: FBT001
    usual = config.optimizer.rate
    if not usual / FAR <= config.rate <= usual * FAR:
        name = config.optimizer.value
        return f"train.learning_rate={config.rate:g} is far from {usual:g}, which suits {name}; leave it out"
    if learned_training_images:
        return (
            "the training images are predicted better, so the test images or their labels are of another "
            "kind, or the training images are too few"
        )
    if steps < FEW_STEPS:
        return f"{steps} steps are too few; raise train.epochs"
    return "the labels do not belong to their images, or train.learning_rate is too high or too low"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
