"""The learning rate over the steps of a training. Imports Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

FINAL_SHARE = 0.01
"""The share of its peak that the rate never falls below."""


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear from 0 up to the peak, then linear down to 0 (Smith 2018, arXiv 1708.07120).

    `peak` is reached after the share `warmup` of all `steps`, 0 after the last of them; nowhere is the rate
    below `FINAL_SHARE` of the peak.
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
