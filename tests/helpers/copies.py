"""Copies of a completed run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status

if TYPE_CHECKING:
    from mnist_cnn.receipt import Receipt


def interrupted_copy(run: Path, folder: Path, after: int) -> Path:
    """Copy a completed run as if its worker had been killed after an epoch."""
    shutil.copytree(run, folder)
    (folder / run_folder.RESULT).unlink()
    kept = {f"epoch-{after:06d}", f"epoch-{after - 1:06d}", "initial"}
    for path in (folder / run_folder.CHECKPOINTS).iterdir():
        if path.stem not in kept:
            path.unlink()
    change_receipt(folder, status=Status.running)
    return folder


def copy_run(run: Path, folder: Path, **receipt: Any) -> Path:
    """Copy a completed run without its checkpoints; change these values of its receipt."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(run_folder.CHECKPOINTS))
    change_receipt(folder, **receipt)
    return folder


def change_receipt(folder: Path, **values: Any) -> Receipt:
    """Change values of a run's receipt; return the new receipt."""
    changed = dataclasses.replace(run_folder.read_receipt(folder), **values)
    run_folder.write_receipt(folder, changed)
    return changed
