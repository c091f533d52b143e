"""Registers runs' models in MLflow's registry."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mnist_cnn.backend import Status
from mnist_cnn.backends import common
from mnist_cnn.errors import BackendError
from mnist_cnn.files import locks
from mnist_cnn.hints import command_line
from mnist_cnn.run_folder import verify
from mnist_cnn.tracking import check_installed
from mnist_cnn.tracking import state as states
from mnist_cnn.tracking.recording import record_now
from mnist_cnn.tracking.tracker import TrackedRun, end_tags

if TYPE_CHECKING:
    from mnist_cnn.backend import ModelRef, Run
    from mnist_cnn.config import RegisterConfig, TrackConfig

MLFLOW = "mlflow"


def register(run: Run, config: RegisterConfig, track: TrackConfig) -> ModelRef:
    """Register a completed run's model.

    Returns the version that this run has under this name, if any. Records the run in MLflow first if it isn't
    recorded yet.

    Raises:
        ConfigurationError: the extra isn't installed, or the name isn't valid.
        BackendError: the run isn't completed, its model isn't accurate enough or is damaged, or the server
            refuses it or doesn't answer.
    """
    check_installed([MLFLOW], "register.to=mlflow")
    name, folder = config.name or "", run.folder
    if run.status() is Status.finalizing:  # a cluster keeps the result
        run.wait()
    result = common.check_can_register(folder, run.status(), name, config.min_accuracy)
    verify(folder, result)
    states.choose(folder, dataclasses.replace(track, mlflow=dataclasses.replace(track.mlflow, enabled=True)))
    from mnist_cnn.tracking import mlflow

    try:
        state = record_now(folder, MLFLOW)
        tags = TrackedRun.of(folder).tags | end_tags(Status.completed, result)
        with states.lock(folder, MLFLOW, locks.TIMEOUT_SECONDS):  # of two that register at once, one finds it
            return mlflow.register(state, name, tags)
    except mlflow.ServerError as error:
        again = command_line("register", folder, f"register.name={name}", "register.to=mlflow")
        hint = f"check that server, then repeat: {again}"
        raise BackendError(f"cannot register {name} with MLflow at {error.message}", hint) from error
