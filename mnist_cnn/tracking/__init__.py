"""Trackers show a run beside others while it trains.

They show settings, history, pictures and model. A tracker reads nothing but the run folder, so a run looks
the same wherever it was trained. The process that follows the run writes, and continues what an earlier one
has begun.
"""

from __future__ import annotations

import pkgutil
from importlib import metadata
from typing import TYPE_CHECKING

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.version import installation_hint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnist_cnn.tracking.tracker import Tracker

TRACKERS: dict[str, str] = {
    "mlflow": "mnist_cnn.tracking.mlflow:MlflowTracker",
    "tensorboard": "mnist_cnn.tracking.tensorboard:TensorBoardTracker",
}
"""Each tracker's class, imported when it is used.

The extra that it needs has its name.
"""


def tracker_class(name: str) -> type[Tracker]:
    """Import and return a tracker's class.

    Raises ConfigurationError if its extra isn't installed.
    """
    check_installed([name])
    found: type[Tracker] = pkgutil.resolve_name(TRACKERS[name])
    return found


def check_installed(names: Iterable[str], setting: str | None = None) -> None:
    """Check that these trackers' packages are installed.

    Does not import them. Raises ConfigurationError, which names the setting, by default `track`.
    """
    for name in names:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            message = f"{name}, which {setting or f'track={name}'} needs, isn't installed"
            raise ConfigurationError(message, installation_hint(name)) from error
