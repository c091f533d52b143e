"""Copies of a completed run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status


def interrupted_copy(run: Path, folder: Path, after: int) -> Path:
    """Copy a completed run as if its worker had been killed after an epoch."""
    shutil.copytree(run, folder)
    (folder / run_folder.RESULT).unlink()
    kept = {f"epoch-{after:06d}", f"epoch-{after - 1:06d}"}
    for path in (folder / run_folder.CHECKPOINTS).iterdir():
        if path.stem not in kept:
            path.unlink()
    receipt = dataclasses.replace(run_folder.read_receipt(folder), status=Status.running)
    run_folder.write_receipt(folder, receipt)
    return folder


def copy_run(run: Path, folder: Path, **receipt: Any) -> Path:
    """Copy a completed run without its checkpoints; change these values of its receipt."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(run_folder.CHECKPOINTS))
    if receipt:
        run_folder.write_receipt(folder, dataclasses.replace(run_folder.read_receipt(folder), **receipt))
    return folder
