"""Each kind of file that may be damaged: how to make one, and which part of the product reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint_files import Checkpoints
from .data_files import DataFolder, Idx
from .given_files import Network, Picture, Settings, Workspace
from .model_files import KerasModel, Onnx
from .run_files import Registered, of_run

if TYPE_CHECKING:
    from .reader import Reader


@dataclasses.dataclass(frozen=True)
class Kind:
    """`reader` is made from a sound run and an empty folder; `share` is of the number of inputs chosen.

    `mebibytes` is the limit of the process's growth while it reads.
    """

    reader: Callable[[Path, Path], Reader]
    share: float
    mebibytes: int


KINDS: dict[str, Kind] = {
    "IDX": Kind(Idx, 1, 16),
    "data.dir": Kind(DataFolder, 0.1, 16),
    "run.json": Kind(of_run("run.json"), 0.03, 64),
    "job.json": Kind(of_run("job.json", "failed"), 0.02, 64),
    "result.json": Kind(of_run("result.json"), 0.02, 64),
    "metrics.jsonl": Kind(of_run("metrics.jsonl"), 0.01, 64),
    "progress.json": Kind(of_run("progress.json", "running"), 0.01, 64),
    "model.json": Kind(Registered, 0.01, 64),
    "checkpoint": Kind(Checkpoints, 0.05, 256),
    "model.onnx": Kind(Onnx, 0.1, 256),
    "model.keras": Kind(KerasModel, 0.005, 64),
    "picture": Kind(Picture, 0.05, 1200),
    "config.json": Kind(Workspace, 0.1, 16),
    "conf/*.yaml": Kind(Settings, 0.01, 128),
    "model.file": Kind(Network, 0.005, 128),
}
