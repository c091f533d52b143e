"""Each kind of bad file: how it is made from a seed, and which part of the product reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint_files import Checkpoints
from .data_files import DataFolder, Idx
from .given_files import Network, Picture, Settings, Workspace
from .model_files import KerasModel, Onnx
from .run_files import Registered, RunFile

if TYPE_CHECKING:
    from .reader import Reader


@dataclasses.dataclass(frozen=True)
class Kind:
    """`reader` is made from a sound run and an empty folder; `share` is the share of inputs of this kind.

    `mebibytes` is how much the process may grow while it reads.
    """

    reader: Callable[[Path, Path], Reader]
    share: float
    mebibytes: int


KINDS: dict[str, Kind] = {
    "IDX": Kind(Idx, 1, 16),
    "data.dir": Kind(DataFolder, 0.1, 16),
    "run.json": Kind(partial(RunFile, name="run.json"), 0.03, 64),
    "job.json": Kind(partial(RunFile, name="job.json", status="failed"), 0.02, 64),
    "result.json": Kind(partial(RunFile, name="result.json"), 0.02, 64),
    "metrics.jsonl": Kind(partial(RunFile, name="metrics.jsonl"), 0.01, 64),
    "progress.json": Kind(partial(RunFile, name="progress.json", status="running"), 0.01, 64),
    "model.json": Kind(Registered, 0.01, 64),
    "checkpoint": Kind(Checkpoints, 0.05, 256),
    "model.onnx": Kind(Onnx, 0.1, 256),
    "model.keras": Kind(KerasModel, 0.005, 64),
    "picture": Kind(Picture, 0.05, 1200),
    "config.json": Kind(Workspace, 0.1, 16),
    "conf/*.yaml": Kind(Settings, 0.01, 128),
    "model.file": Kind(Network, 0.005, 128),
}
