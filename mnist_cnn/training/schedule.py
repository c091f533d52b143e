"""Learning rate schedules. Imports Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

FINAL_SHARE = 0.01  # lower bound of the rate, as a share of its peak


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear from 0 to `peak`, then down to 0.

    Smith 2018, arXiv 1708.07120. The rate peaks after the share `warmup` of all `steps`. It is never below
    `FINAL_SHARE` of the peak.
    """

    def __init__(self, peak: float, steps: int, warmup: float) -> None:
        self.peak = peak
        self.steps = steps
        self.rising = max(1.0, warmup * steps)

    def __call__(self, step: Any) -> Any:
        """Return the rate (float32 scalar).

        `step` counts from 0.
        """
        step = ops.cast(step, "float32")
        # Products, because Grappler turns divisions by constants into them.
        rise = step * (np.float32(1) / np.float32(self.rising))
        fall = (self.steps - step) * (np.float32(1) / np.float32(max(1.0, self.steps - self.rising)))
        return self.peak * ops.clip(ops.minimum(rise, fall), FINAL_SHARE, 1.0)
