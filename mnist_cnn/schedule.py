"""The learning rate over the steps of a training. Imports Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

FINAL_SHARE = 0.01
"""The share of its peak that the rate ends at."""


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear from almost nothing up to the peak, then linear down (Smith 2018, arXiv 1708.07120).

    `peak` is reached after the share `warmup` of all `steps`; both ends are `FINAL_SHARE` of it.
    """

    def __init__(self, peak: float, steps: int, warmup: float) -> None:
        self.peak = peak
        self.steps = steps
        self.rising = max(1.0, warmup * steps)

    def __call__(self, step: Any) -> Any:
        """Return the rate, a float32 scalar, of a step counted from 0."""
        step = ops.cast(step, "float32")
        rise = step / self.rising
        fall = (self.steps - step) / max(1.0, self.steps - self.rising)
        return self.peak * ops.clip(ops.minimum(rise, fall), FINAL_SHARE, 1.0)
