"""Runs that trackers can record, without a training: a job, a receipt and a growing history."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from helpers.records import ROW, write_receipt, write_result
from helpers.scripted_run import ScriptedRun
from PIL import Image

from mnist_cnn import compose, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.config import DataConfig, ModelConfig, TrainConfig
from mnist_cnn.job import Job
from mnist_cnn.result import describe_content
from mnist_cnn.tracking import mlflow, state

JOB = Job(DataConfig(digest="0" * 64), ModelConfig(), TrainConfig(epochs=3), seed=7)
EPOCHS = tuple(
    dataclasses.replace(ROW, epoch=epoch, loss=1 / epoch, val_accuracy=1 - 0.1 / epoch) for epoch in (1, 2, 3)
)


def running(folder: Path, *overrides: str) -> ScriptedRun:
    """Return a run with one epoch, which is tracked as the overrides say."""
    write_receipt(folder, Status.running)
    run_folder.write_job(folder, JOB)
    run_folder.write_history(folder, EPOCHS[:1])
    state.choose(folder, compose.load(overrides).track)
    return ScriptedRun(folder, Status.completed)


def in_mlflow(server: str, folder: Path, name: str) -> list[tuple[int, float]]:
    """Return the epochs and values that a server has of a run's metric, each as often as it was written."""
    run_id = state.read(folder, "mlflow").place["run_id"]
    history = mlflow.client(server).get_metric_history(run_id, name)
    return [(metric.step, metric.value) for metric in history]


def in_tensorboard(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return the same of a run's event files, whose values are those of `as_float32`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars(name)
    return [(scalar.step, scalar.value) for scalar in scalars]


def as_float32(value: float) -> float:
    """Return a value as an event file keeps it."""
    return float(np.float32(value))


def complete(folder: Path) -> None:
    """Complete the run, with a plot and its whole history."""
    Image.new("RGB", (40, 30), "red").save(folder / "history.png")
    plot = describe_content((folder / "history.png").read_bytes())
    result = write_result(folder)
    whole = dataclasses.replace(result, history=EPOCHS, files=result.files | {"history.png": plot})
    (folder / run_folder.RESULT).write_text(whole.to_json(), encoding="utf-8")
    run_folder.write_history(folder, EPOCHS)


def copy_files(run: Path, folder: Path) -> Path:
    """Copy the files of a completed run, without its checkpoints, into a new folder; return that."""
    folder.mkdir()
    for file in filter(Path.is_file, run.iterdir()):
        shutil.copyfile(file, folder / file.name)
    return folder
