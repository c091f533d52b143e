"""Weights of the classes in the loss (`train.class_weights`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import written

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mnist_cnn.config import ClassWeights

    Weighting = ClassWeights | tuple[float, ...] | None


def check(weighting: Weighting, num_classes: int) -> None:
    """Check that each class has a weight. Raises ConfigurationError."""
    if isinstance(weighting, tuple) and len(weighting) != num_classes:
        message = (
            f"train.class_weights={written(weighting)}: {len(weighting)} weights for {num_classes} classes"
        )
        raise ConfigurationError(
            message, "give one for each class, in order, or train.class_weights=balanced"
        )


def weights_of(weighting: Weighting, labels: NDArray[Any], num_classes: int) -> NDArray[Any] | None:
    """Return each class's weight, float32 (classes,), or None.

    None means that all count the same. `labels`, uint8 (N,), are those of the training images. Balanced
    weights are N / (classes * images of the class), so that the classes count the same and the mean weight is
    1. Absent classes are left out.
    """
    import numpy as np

    if weighting is None:
        return None
    if isinstance(weighting, tuple):
        return np.array(weighting, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0).astype(np.float32)
