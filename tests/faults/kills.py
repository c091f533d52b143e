"""Kills real runs at random moments, resumes them, and compares their weights with an undisturbed run's.

Each worker process ends by SIGKILL: after a random time, or at a random moment after it starts to write a
checkpoint or the model, because those moments are short. The files that it leaves show where a kill hit.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import random
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mnist_cnn import launch, run_folder
from mnist_cnn.errors import BackendError
from mnist_cnn.files import atomic

if TYPE_CHECKING:
    from mnist_cnn.backend import Run

JOB = (
    "data.train_limit=1000",
    "data.test_limit=500",
    "train.batch_size=25",
    "train.epochs=30",
    "save_h5=true",
)
KILLS = 50
TRAINING_KILLS, SAVING_KILLS = 8, 3
"""Kills of one run while it trains, then while it saves; then it may complete."""
START_SECONDS = 120.0
"""Limit of the time to the first step, on a busy machine."""
POLL_SECONDS = 0.0005
MODELS = (".keras", ".h5", ".onnx")


class Place(StrEnum):
    """What a worker was doing when it was killed."""

    start = "starting"
    epoch = "in an epoch"
    checkpoint = "writing a checkpoint"
    model = "writing the model"
    finalizing = "finalizing otherwise"


@dataclasses.dataclass
class Survived:
    """Kills by place, runs, those with other weights than the undisturbed run, and damaged checkpoints."""

    kills: collections.Counter[Place] = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)
    damaged: int = 0

    def table(self) -> str:
        """Return a table with a line for each place."""
        lines = [f"{place.value:<22} {self.kills[place]:>5} kills" for place in Place]
        ended = f"{self.runs - len(self.differing)} of {self.runs} runs ended in the undisturbed weights"
        damaged = f"{self.damaged} checkpoints were found damaged"
        total = f"{'all':<22} {self.kills.total():>5} kills; {ended}; {damaged}"
        return "\n".join([*lines, total, *self.differing])


def survive(home: Path, kills: int, seed: int, report: Callable[[str], None] = lambda _: None) -> Survived:
    """Kill runs of one job `kills` times, resume them, and compare the weights of each that completes."""
    job = launch.make_job(*JOB)
    whole = launch.submit(job, f"run_dir={home / 'whole'}").wait().weights_sha256
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    found = Survived()
    while (left := kills - found.kills.total()) > 0:
        found.runs += 1
        run = launch.submit(job, f"run_dir={home / f'run-{found.runs}'}")
        for kill in range(min(TRAINING_KILLS + SAVING_KILLS, left)):
            is_saving = kill >= TRAINING_KILLS or kill == left - 1
            intended = Place.model if is_saving else draw.choice((Place.epoch, Place.checkpoint))
            place = _kill(run, draw, intended)
            if place is None:
                break
            found.kills[place] += 1
            report(f"kill {found.kills.total()} of {kills}: {place.value}")
            run = launch.resume(str(run.folder))
        weights = run.wait().weights_sha256
        if weights != whole:
            found.differing.append(f"{run.folder.name} ended in {weights}, the undisturbed one in {whole}")
        log = (run.folder / run_folder.LOG).read_text(encoding="utf-8", errors="replace")
        found.damaged += log.count("is damaged: skipped")
    return found


def _kill(run: Run, draw: random.Random, intended: Place) -> Place | None:
    """Kill a run's worker; return what it was doing, or None if it had ended."""
    folder = run.folder
    worker = psutil.Process(run_folder.read_receipt(folder).pid)
    condition, seconds = MOMENTS[intended]
    for awaited in (_is_under_way, condition):
        deadline = time.monotonic() + START_SECONDS
        while not awaited(folder) and _is_alive(worker) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    time.sleep(draw.uniform(0, seconds))
    try:
        worker.kill()
    except psutil.NoSuchProcess:
        return None
    try:
        run.wait()
    except BackendError:  # it was killed before it could report an end
        return _place(folder)
    return None  # it had ended, but its process still existed


def _is_alive(worker: psutil.Process) -> bool:
    return worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE


def _is_under_way(folder: Path) -> bool:
    """Return whether the worker has made its first step."""
    progress = run_folder.read_progress(folder)
    return progress is not None and (progress.step > 0 or progress.status == "finalizing")


def _place(folder: Path) -> Place:
    """Return what a killed worker was doing, as its files show."""
    if _is_writing_checkpoint(folder):
        return Place.checkpoint
    if _is_writing_model(folder):
        return Place.model
    progress = run_folder.read_progress(folder)
    if progress is None or progress.status == "preparing":
        return Place.start
    return Place.epoch if progress.status == "running" else Place.finalizing


def _is_writing_checkpoint(folder: Path) -> bool:
    checkpoints = folder / run_folder.CHECKPOINTS
    unfinished = (path for path in checkpoints.glob("*.npz") if not path.with_suffix(".sha256").exists())
    return any(checkpoints.glob(f"{atomic.PREFIX}*")) or any(unfinished)


def _is_writing_model(folder: Path) -> bool:
    return any(path.suffix in MODELS for path in folder.glob(f"{atomic.PREFIX}*"))


MOMENTS = {
    Place.epoch: (_is_under_way, 2.5),
    Place.checkpoint: (_is_writing_checkpoint, 0.03),
    Place.model: (_is_writing_model, 0.3),
}
"""When to kill: the awaited event, and the limit of the seconds after it: about as long as a write takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this matrix's arguments."""
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help="number of kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides the moments")


def run(chosen: argparse.Namespace) -> int:
    """Kill as often as chosen; print the places; return 1 if a run was not survived."""
    with tempfile.TemporaryDirectory(prefix="kills-") as home:
        survived = survive(Path(home), chosen.kills, chosen.seed, lambda line: print(line, flush=True))
    print(f"\n{survived.table()}")
    never_hit = [place for place in MOMENTS if not survived.kills[place]]
    for place in never_hit:
        print(f"no kill hit a worker while {place.value}")
    return 1 if survived.differing or survived.damaged or never_hit else 0
