"""Runs of a search that train nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.cli import ask, home
from helpers.ended_runs import EndedRun, Ends
from helpers.records import ROW, write_receipt

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status

if TYPE_CHECKING:
    from mnist_cnn.config import Config
    from mnist_cnn.job import Job

__all__ = ["ask", "home"]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ends:
    """How the run of each trial ends, by the name of its folder; "" is the one of all others."""
    monkeypatch.chdir(tmp_path)
    ends: Ends = {"": lambda: None}

    def train(folder: Path, pause_after: int | None) -> EndedRun:
        assert pause_after is not None
        job = run_folder.read_job(folder)
        units, patience = job.model.dense_units, job.train.stop_patience
        if patience is not None:  # the loss is lowest after the first epoch
            pause_after = min(pause_after, 1 + patience)
        rows = [
            dataclasses.replace(ROW, epoch=epoch + 1, val_accuracy=units / 100)
            for epoch in range(pause_after)
        ]
        run_folder.write_history(folder, rows)
        write_receipt(folder, Status.paused)
        return EndedRun(folder, ends.get(folder.name, ends[""]))

    def start(config: Config, job: Job) -> EndedRun:
        folder = Path(str(config.run.run_dir))
        folder.mkdir()
        run_folder.write_job(folder, job)
        return train(folder, config.run.pause_after)

    def prepare_resume(run: str, overrides: list[str], _dirs: object) -> Callable[[], EndedRun]:
        pause_after = next(
            int(text.partition("=")[2]) for text in overrides if text.startswith("pause_after")
        )
        assert len(run_folder.read_history(Path(run))) < pause_after  # or it would be refused
        return lambda: train(Path(run), pause_after)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "prepare_resume", prepare_resume)
    return ends
