"""Real trainings, really killed at random moments and resumed, against one that nothing disturbed.

Each life of a trainer ends by SIGKILL: after a random time, or at a random moment after it began to write a
checkpoint or the model, for those moments are short. Where a kill fell is read from what it left on the disk,
not from what was intended.
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
TRAINING_LIVES, SAVING_LIVES = 8, 3
"""Of one run: lives that end while it trains, then such that end while it saves; then it may end."""
START_SECONDS = 120.0
"""How long a trainer may take to its first step, on a machine that has other things to do."""
LIFE_SECONDS = 2.5
"""How long it may live at most after that."""
CHECKPOINT_SECONDS, MODEL_SECONDS = 0.03, 0.3
"""How long after it began to write it is killed at most: about as long as the writing takes."""
LOOK_SECONDS = 0.0005
MODELS = (".keras", ".h5", ".onnx")


class Place(StrEnum):
    """What a trainer was doing when it was killed."""

    start = "starting"
    epoch = "in an epoch"
    checkpoint = "writing a checkpoint"
    model = "writing the model"
    finalizing = "finalizing otherwise"


MUST_OCCUR = (Place.epoch, Place.checkpoint, Place.model)


@dataclasses.dataclass(frozen=True)
class Survived:
    """What the kills came to: how many fell where, and which runs did not end as the undisturbed one."""

    kills: collections.Counter[Place]
    runs: int
    differing: tuple[str, ...]
    damaged: int
    """How often a checkpoint was found damaged, and passed over."""

    @property
    def never_hit(self) -> tuple[Place, ...]:
        return tuple(place for place in MUST_OCCUR if not self.kills[place])

    def table(self) -> str:
        """Word it, a line for each place."""
        lines = [f"{place.value:<22} {self.kills[place]:>5} kills" for place in Place]
        ended = f"{self.runs - len(self.differing)} of {self.runs} runs ended in the undisturbed weights"
        damaged = f"{self.damaged} checkpoints were found damaged"
        all_of_them = f"{'all':<22} {self.kills.total():>5} kills; {ended}; {damaged}"
        return "\n".join([*lines, all_of_them, *self.differing])


def survive(home: Path, kills: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> Survived:
    """Kill trainings of one job until there were so many kills; compare the weights of each that ended."""
    job = launch.make_job(*JOB)
    whole = launch.submit(job, f"run_dir={home / 'whole'}").wait().weights_sha256
    draw = random.Random(seed)  # noqa: S311 - it chooses moments
    counted: collections.Counter[Place] = collections.Counter()
    differing: list[str] = []
    damaged = runs = 0
    while counted.total() < kills:
        runs += 1
        run = launch.submit(job, f"run_dir={home / f'run-{runs}'}")
        for life in range(min(TRAINING_LIVES + SAVING_LIVES, kills - counted.total())):
            is_saving = life >= TRAINING_LIVES or kills - counted.total() <= 1
            place = _kill(
                run, draw, Place.model if is_saving else draw.choice((Place.epoch, Place.checkpoint))
            )
            if place is None:
                break
            counted[place] += 1
            tell(f"kill {counted.total()} of {kills}: {place.value}")
            run = launch.resume(str(run.folder))
        weights = run.wait().weights_sha256
        if weights != whole:
            differing.append(f"{run.folder.name} ended in {weights}, the undisturbed one in {whole}")
        log = (run.folder / run_folder.LOG).read_text(encoding="utf-8", errors="replace")
        damaged += log.count("is damaged and passed over")
    return Survived(counted, runs, tuple(differing), damaged)


def _kill(run: Run, draw: random.Random, intended: Place) -> Place | None:
    """Kill a run's trainer; return where that fell, or None where it had ended before."""
    folder = run.folder
    trainer = psutil.Process(run_folder.read_receipt(folder).pid)
    _await(trainer, lambda: _is_under_way(folder))
    if intended is Place.epoch:
        _await(trainer, lambda: False, draw.uniform(0, LIFE_SECONDS))
    elif intended is Place.checkpoint:
        _await(trainer, lambda: _is_writing_checkpoint(folder))
        time.sleep(draw.uniform(0, CHECKPOINT_SECONDS))
    else:
        _await(trainer, lambda: _is_writing_model(folder))
        time.sleep(draw.uniform(0, MODEL_SECONDS))
    try:
        trainer.kill()
    except psutil.NoSuchProcess:
        return None
    try:
        run.wait()
    except BackendError:  # it ended without a word
        return _place(folder)
    return None  # it had ended, and only not gone yet


def _await(trainer: psutil.Process, is_so: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait until something is so, for so long at most, or until the trainer has ended."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline and trainer.is_running():
        if trainer.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(LOOK_SECONDS)


def _is_under_way(folder: Path) -> bool:
    """Tell whether a trainer has got beyond its start."""
    progress = run_folder.read_progress(folder)
    return progress is not None and (progress.step > 0 or progress.status == "finalizing")


def _place(folder: Path) -> Place:
    """Tell from what a killed trainer left what it was doing."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is asked."""
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help="how many kills there are")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides the moments")


def run(chosen: argparse.Namespace) -> int:
    """Kill as often as is asked; print where that fell. Returns 1 where a run was not survived."""
    with tempfile.TemporaryDirectory(prefix="kills-") as home:
        survived = survive(Path(home), chosen.kills, chosen.seed, lambda line: print(line, flush=True))
    print(f"\n{survived.table()}")
    for place in survived.never_hit:
        print(f"no kill fell where a trainer was {place.value}")
    return 1 if survived.differing or survived.damaged or survived.never_hit else 0
