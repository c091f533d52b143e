"""The trainer's whole state at the end of an epoch, saved so that it can go on exactly from there.

A checkpoint is an uncompressed .npz file with a .sha256 file beside it, which is written last: one
without it does not exist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from mnist_cnn import atomic
from mnist_cnn.result import EpochRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KEPT = 2
"""How many of the newest are kept: if one is damaged, the one before it serves."""

log = logging.getLogger("mnist_cnn")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State after `len(history)` epochs: the arrays of all variables in their order, and the history."""

    job_digest: str
    history: tuple[EpochRow, ...]
    arrays: tuple[NDArray[Any], ...]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint and remove those older than the newest two.

    Raises:
        BackendError: it cannot be written.
    """
    import numpy as np

    folder.mkdir(exist_ok=True)
    path = folder / f"epoch-{len(checkpoint.history):06d}.npz"
    history = [dataclasses.asdict(row) for row in checkpoint.history]
    about = json.dumps({"job_digest": checkpoint.job_digest, "history": history})
    with atomic.replacing(path) as temporary:
        arrays: dict[str, Any] = {f"{i:04d}": array for i, array in enumerate(checkpoint.arrays)}
        np.savez(temporary, about=np.array(about), **arrays)
    atomic.write_text(path.with_suffix(".sha256"), _sha256(path))
    for old in sorted(folder.glob("epoch-*.npz"))[:-KEPT]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink()


def newest(folder: Path, job_digest: str, like: Sequence[NDArray[Any]]) -> Checkpoint | None:
    """Return the newest sound checkpoint of this job, or None; damaged ones are passed over, with a warning.

    `like` has the shapes and dtypes that the arrays must have.
    """
    for path in sorted(folder.glob("epoch-*.npz"), reverse=True):
        checkpoint = _read(path)
        if checkpoint is None or [(a.shape, a.dtype) for a in checkpoint.arrays] != [
            (a.shape, a.dtype) for a in like
        ]:
            log.warning("checkpoint %s is damaged and passed over", path.name)
        elif checkpoint.job_digest != job_digest:
            log.warning("checkpoint %s belongs to another job and is passed over", path.name)
        else:
            return checkpoint
    return None


def _read(path: Path) -> Checkpoint | None:
    """Read a checkpoint whose checksum fits, else return None."""
    import numpy as np

    try:
        if path.with_suffix(".sha256").read_text(encoding="utf-8") != _sha256(path):
            return None
    except OSError:
        return None
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        arrays = tuple(stored[name] for name in sorted(stored.files) if name != "about")
    return Checkpoint(about["job_digest"], tuple(EpochRow(**row) for row in about["history"]), arrays)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
