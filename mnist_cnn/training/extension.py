"""More epochs for a completed training.

The result is that of a training that had these epochs from the start. So nothing in the first epochs may
depend on how many there are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mnist_cnn.config import Schedule
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import stopping

if TYPE_CHECKING:
    from mnist_cnn.training.checkpoint import Checkpoint

EPOCHS = "train.epochs"


def extended(checkpoint: Checkpoint, epochs: int) -> Checkpoint:
    """Return a completed training's checkpoint, for a longer job.

    Raises ConfigurationError, with the reason, if a training of `epochs` epochs would not have passed it.
    """
    job, done = checkpoint.job, len(checkpoint.history)
    config = job.train
    reason = None
    if epochs <= done:
        reason = f"the run has {done} epochs already"
    elif stopping.has_stopped(checkpoint.history, config.stop_patience):
        reason = f"the run stopped after epoch {done}, as train.stop_patience={config.stop_patience} says"
    elif config.schedule is not Schedule.constant:
        schedule = f"train.schedule={config.schedule.value}"
        reason = f"{schedule} has planned the learning rates for {config.epochs} epochs"
    elif config.unaugmented_epochs:
        reason = f"train.unaugmented_epochs={config.unaugmented_epochs} were the last of {config.epochs}"
    if reason is not None:
        message = f"{EPOCHS}={epochs} cannot continue this run: {reason}"
        raise ConfigurationError(message, f"start a new run with {EPOCHS}={epochs}")
    return dataclasses.replace(
        checkpoint, job=dataclasses.replace(job, train=dataclasses.replace(config, epochs=epochs))
    )
