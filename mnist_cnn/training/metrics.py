"""More metrics of an epoch, computed by Keras.

They need the probabilities of the held-out images. The names are checked without importing Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "auc": ("AUC", {}),
    "categorical_hinge": ("CategoricalHinge", {}),
    "cosine_similarity": ("CosineSimilarity", {}),
    "f1_score": ("F1Score", {"average": "macro"}),
    "kl_divergence": ("KLDivergence", {}),
    "mean_absolute_error": ("MeanAbsoluteError", {}),
    "mean_squared_error": ("MeanSquaredError", {}),
    "precision": ("Precision", {}),
    "recall": ("Recall", {}),
    "top_k_categorical_accuracy": ("TopKCategoricalAccuracy", {}),
}
"""Metrics by Keras' name.

A value is the class in `keras.metrics`, and the arguments by which it is one number.
"""


def check(names: Sequence[str]) -> None:
    """Check that all names are known. Raises ConfigurationError."""
    for name in names:
        if name not in METRICS:
            otherwise = f"the metrics are {', '.join(METRICS)}; accuracy and loss are always measured"
            hint = did_you_mean(name, list(METRICS), otherwise)
            raise ConfigurationError(f"train.metrics: unknown metric {name}", hint)


def measure(names: Sequence[str], labels: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, float]:
    """Return the metrics by name.

    Labels are (N,), probabilities float32 (N, classes).
    """
    if not names:
        return {}
    import keras
    import numpy as np

    check(names)
    targets = np.eye(probabilities.shape[1], dtype=np.float32)[labels]  # (N, classes)
    found = {}
    for name in names:
        kind, arguments = METRICS[name]
        metric = getattr(keras.metrics, kind)(**arguments)
        metric.update_state(targets, probabilities)
        found[name] = float(metric.result())
    return found
