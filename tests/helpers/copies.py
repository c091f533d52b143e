"""Copies of a completed run, as if something had happened to it before its end."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from mnist_cnn import run_folder
from mnist_cnn.backend import Status


def interrupted_copy(run: Path, folder: Path, after: int) -> Path:
    """Copy a completed run as if its trainer had been killed after an epoch."""
    shutil.copytree(run, folder)
    (folder / run_folder.RESULT).unlink()
    kept = {f"epoch-{after:06d}", f"epoch-{after - 1:06d}"}
    for path in (folder / run_folder.CHECKPOINTS).iterdir():
        if path.stem not in kept:
            path.unlink()
    receipt = dataclasses.replace(run_folder.read_receipt(folder), status=Status.running)
    run_folder.write_receipt(folder, receipt)
    return folder
