"""Early stopping, and which epoch's weights are saved.

Both follow from the settings and the history alone. So a resumed training decides as an undisturbed one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.config import Keep, Schedule
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.config import TrainConfig
    from mnist_cnn.result import EpochRow


def best_epoch(history: Sequence[EpochRow]) -> int:
    """Return the epoch with the lowest held-out loss.

    It is the earliest of equals, and 0 without a history.
    """
    return min(history, key=lambda row: row.val_loss).epoch if history else 0


def has_stopped(history: Sequence[EpochRow], patience: int | None) -> bool:
    """Return whether the held-out loss stopped improving.

    It has not improved for `patience` epochs; never if that is None.
    """
    return patience is not None and len(history) - best_epoch(history) >= patience


def is_done(history: Sequence[EpochRow], config: TrainConfig) -> bool:
    """Return whether no epoch follows this history."""
    return len(history) >= config.epochs or has_stopped(history, config.stop_patience)


def saved_epoch(history: Sequence[EpochRow], keep: Keep) -> int:
    """Return the epoch whose weights are saved."""
    return best_epoch(history) if keep is Keep.best else len(history)


def needs_validation(config: TrainConfig) -> bool:
    """Return whether stopping or saving needs validation images."""
    return config.stop_patience is not None or config.keep is Keep.best


def check(config: TrainConfig, validation: int) -> None:
    """Check the settings of stopping and saving. Raises ConfigurationError.

    `validation` is the number of validation images.
    """
    needs = {
        f"train.stop_patience={config.stop_patience}": config.stop_patience is not None,
        f"train.keep={config.keep.value}": config.keep is Keep.best,
    }
    for wanted in (setting for setting, is_set in needs.items() if is_set and not validation):
        hint = "for example data.validation=10000; the test set must not choose an epoch"
        raise ConfigurationError(f"{wanted} needs validation images", hint)
    if config.stop_patience is None:
        return
    unaugmented = f"train.unaugmented_epochs={config.unaugmented_epochs}"
    planned = {
        "train.schedule=one_cycle lowers the learning rate": config.schedule is Schedule.one_cycle,
        f"{unaugmented} leaves the images as they are": config.unaugmented_epochs > 0,
    }
    for plan in (plan for plan, is_set in planned.items() if is_set):
        message = f"train.stop_patience={config.stop_patience} may leave out the last epochs, in which {plan}"
        hint = "leave out train.stop_patience; train.keep=best still saves the best epoch"
        raise ConfigurationError(message, hint)
