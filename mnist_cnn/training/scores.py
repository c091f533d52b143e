"""How well each class is recognised.

It follows from the counts of a confusion matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.result import ClassScores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def confusion_counts(labels: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Return counts of images by class and prediction.

    Rows are true classes, columns predicted ones. `labels` and `predicted` are integers (N,) below
    `num_classes`.
    """
    import numpy as np

    pairs = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(counts: NDArray[np.int64]) -> tuple[ClassScores, ...]:
    """Return each class's scores, from `confusion_counts`."""
    of_true, of_predicted = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    return tuple(
        ClassScores(
            precision=_share(right, predicted),
            recall=_share(right, true),
            f1=_share(2 * right, true + predicted),
            support=true,
        )
        for right, true, predicted in zip(counts.diagonal().tolist(), of_true, of_predicted, strict=True)
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
