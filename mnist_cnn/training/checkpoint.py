"""Checkpoints: everything that an exact resume needs.

One holds the state at the end of an epoch. It is an uncompressed .npz file with a .sha256 file beside it. The
checksum is written last, and a checkpoint without one does not exist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import random
import secrets
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import migrations, records
from mnist_cnn.errors import ConfigurationError, storage_error
from mnist_cnn.files import atomic, safe_read
from mnist_cnn.hints import command_line
from mnist_cnn.job import Job
from mnist_cnn.result import EpochRow  # noqa: TC001 - msgspec looks it up
from mnist_cnn.training.runtime import Runtime  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from numpy.typing import NDArray

KEPT = 2  # if the newest is damaged, the one before it is used
_ABOUT, _KEPT = "about", "kept-"

log = logging.getLogger("mnist_cnn")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State after `len(history)` epochs of a job.

    `arrays` are all variables in order: weights, optimizer state, random seeds. `generators` is the state of
    Python's and NumPy's global random generators. `changes` are those of job or runtime that `force=true`
    has allowed. `kept` are the weights that would be saved now, if they are those of an earlier epoch.
    """

    job: Job
    runtime: Runtime
    history: tuple[EpochRow, ...]
    arrays: tuple[NDArray[Any], ...]
    generators: dict[str, Any]
    changes: tuple[str, ...] = ()
    kept: tuple[NDArray[Any], ...] = ()

    def check(self, job: Job, runtime: Runtime, *, force: bool, run: Path | str = "RUN") -> Checkpoint:
        """Return the checkpoint to resume from.

        With `force`, the checkpoint records what has changed. The error names `run` in the command that
        resumes anyway.

        Raises:
            ConfigurationError: job or runtime have changed, or the job has fewer epochs.
        """
        if len(self.history) > job.train.epochs:
            message = f"the checkpoint is of epoch {len(self.history)}, the job has {job.train.epochs}"
            raise ConfigurationError(message, "start a new run")
        changes = self.job.changes_to(job)
        changes += self.runtime.changes_to(runtime, is_same_job=not changes)
        if not changes:
            return self
        what = ", ".join(changes)
        if not force:
            message = f"the run cannot be resumed exactly, because this has changed: {what}"
            raise ConfigurationError(message, changed_hint(run))
        log.warning("resuming with force=true, although this has changed: %s", what)
        since = f"since epoch {len(self.history) + 1}: {what}"
        return dataclasses.replace(self, changes=(*self.changes, since))


@dataclasses.dataclass(frozen=True)
class _About:
    """A checkpoint's content besides arrays. `job` is job.json's text."""

    job: str
    runtime: Runtime
    history: tuple[EpochRow, ...]
    generators: dict[str, Any]
    changes: tuple[str, ...]


def changed_hint(run: Path | str = "RUN") -> str:
    """Return the hint for a changed job or runtime."""
    anyway = command_line("resume", run, "force=true")
    return f"undo that, start a new run, or resume anyway (result.json records the change): {anyway}"


class Checkpoints:
    """A folder of checkpoints on a local disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[str] = set()

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write the checkpoint; keep the newest two. Raises BackendError."""
        try:
            atomic.make_folder(self.folder, exist_ok=True)
            path = self.folder / f"{_stem(checkpoint)}.npz"
            write(path, checkpoint)
            self._damaged.discard(path.name)
            self._prune()
        except OSError as error:
            raise storage_error(error, str(self.folder)) from error
        return True

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None.

        Logs a warning for each damaged one.
        """
        return next((checkpoint for _, checkpoint in self._sound()), None)

    def newest_file(self) -> Path | None:
        """Return the newest intact checkpoint's file, or None.

        Warns as `newest` does.
        """
        return next((path for path, _ in self._sound()), None)

    def _sound(self) -> Iterator[tuple[Path, Checkpoint]]:
        for path in self._finished():
            checkpoint = read(path)
            if checkpoint is not None:
                yield path, checkpoint
            else:
                self._damaged.add(path.name)
                log.warning("checkpoint %s is damaged: skipped", path.name)

    def _finished(self) -> list[Path]:
        """Return the checkpoints that have a checksum, newest first."""
        found = (path.with_suffix(".npz") for path in self.folder.glob("epoch-*.sha256"))
        return sorted((path for path in found if path.is_file()), reverse=True)

    def _prune(self) -> None:
        kept = [path for path in self._finished() if path.name not in self._damaged][:KEPT]
        for old in self.folder.glob("epoch-*.npz"):
            if kept and old.name < kept[-1].name:
                old.with_suffix(".sha256").unlink(missing_ok=True)
                old.unlink(missing_ok=True)


class MountedCheckpoints(Checkpoints):
    """A folder in a mounted blob store.

    Its files cannot be renamed or rewritten. A checkpoint is written to the local disk and copied under a new
    name, its checksum last. If the copy fails, a warning is logged and the training continues.
    """

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write the checkpoint; return whether it was copied.

        Raises BackendError if the local disk fails.
        """
        name = f"{_stem(checkpoint)}-{secrets.token_hex(8)}.npz"
        try:
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as here:
                write(Path(here) / name, checkpoint)
                return self._copy(Path(here) / name, len(checkpoint.history))
        except OSError as error:
            raise storage_error(error, tempfile.gettempdir(), "TMPDIR=FOLDER") from error

    def _copy(self, written: Path, epoch: int) -> bool:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in (written, written.with_suffix(".sha256")):
                shutil.copyfile(file, self.folder / file.name)
            self._prune()
        except OSError as error:
            reason = error.strerror or error
            log.warning("checkpoint of epoch %d not saved, the store failed: %s", epoch, reason)
            return False
        return True


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, its checksum last. Raises BackendError."""
    import numpy as np

    values = {name: getattr(checkpoint, name) for name in ("runtime", "history", "generators", "changes")}
    about = _About(job=checkpoint.job.to_json(), **values)
    described = {"schema": migrations.SCHEMA, **dataclasses.asdict(about)}
    with atomic.replacing(path) as temporary:
        arrays: dict[str, Any] = {f"{i:04d}": array for i, array in enumerate(checkpoint.arrays)}
        arrays |= {f"{_KEPT}{i:04d}": array for i, array in enumerate(checkpoint.kept)}
        arrays[_ABOUT] = np.frombuffer(json.dumps(described).encode(), np.uint8)
        np.savez(temporary, **arrays)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
    atomic.write_text(path.with_suffix(".sha256"), sha256)


def generators() -> dict[str, Any]:
    """Return the state of global random generators, for JSON.

    They are Python's and NumPy's.
    """
    import numpy as np

    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - a custom network may use it
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def set_generators(state: dict[str, Any], of_python: Any = random, of_numpy: Any = None) -> None:
    """Restore random generators, by default the global ones.

    `state` is from `generators`.
    """
    import numpy as np

    version, keys, gauss = state["python"]
    of_python.setstate((version, tuple(keys), gauss))
    (of_numpy or np.random).set_state(tuple(state["numpy"]))


def _stem(checkpoint: Checkpoint) -> str:
    return f"epoch-{len(checkpoint.history):06d}"


def read(path: Path) -> Checkpoint | None:
    """Read a checkpoint, or return None.

    None if it doesn't match its checksum or isn't a checkpoint. The checksum doesn't prove who wrote the
    file, so nothing is unpickled, and nothing is unpacked that is larger than the file.
    """
    try:
        checksum = safe_read.read_text(path.with_suffix(".sha256"), max_bytes=64)
        with safe_read.open_file(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                return None
            return _parse(file)
    except Exception:  # noqa: BLE001 - numpy and zipfile raise many kinds of errors
        return None


def _parse(file: BufferedReader) -> Checkpoint:
    import numpy as np

    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("it is compressed; checkpoints aren't")
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        content = records.decode(stored[_ABOUT].tobytes())
        names = sorted(name for name in stored.files if name != _ABOUT)
        kept = tuple(stored[name] for name in names if name.startswith(_KEPT))
        arrays = tuple(stored[name] for name in names if not name.startswith(_KEPT))
    if not all(isinstance(array, np.ndarray) for array in (*arrays, *kept)):
        raise ValueError("it has a member that isn't an array")
    about = records.convert(_About, migrations.upgrade_checkpoint(content))
    set_generators(about.generators, random.Random(), np.random.RandomState())  # noqa: S311 - a trial
    job = Job.from_json(about.job)
    return Checkpoint(job, about.runtime, about.history, arrays, about.generators, about.changes, kept)
