"""The whole state at the end of an epoch, kept so that a training can go on exactly from there.

A checkpoint is an uncompressed .npz file with a .sha256 file beside it, which is written last: one without
it does not exist. Knows what decides whether one may be gone on from, but not how anything is trained.
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
from mnist_cnn.job import Job
from mnist_cnn.result import EpochRow  # noqa: TC001 - msgspec looks it up
from mnist_cnn.training.runtime import Runtime  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from numpy.typing import NDArray

KEPT = 2
"""How many of the newest are kept: if one is damaged, the one before it serves."""
CHECKSUM_BYTES = 64
_ABOUT = "about"

log = logging.getLogger("mnist_cnn")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State after `len(history)` epochs of a job.

    `arrays` are those of all variables in their order: weights, optimizer state, random seeds. `generators`
    is the state of Python's and NumPy's global random generators. `changes` are those of job or runtime
    that `force=true` has passed over before.
    """

    job: Job
    runtime: Runtime
    history: tuple[EpochRow, ...]
    arrays: tuple[NDArray[Any], ...]
    generators: dict[str, Any]
    changes: tuple[str, ...] = ()

    def changes_to(self, job: Job, runtime: Runtime) -> tuple[str, ...]:
        """Word what is different now and decides the weights; nothing where the training may go on."""
        return (*self.job.changes_to(job), *self.runtime.changes_to(runtime))

    def check(self, job: Job, runtime: Runtime, *, force: bool) -> Checkpoint:
        """Return this checkpoint to go on from; `force` passes over what has changed, and notes it.

        Raises:
            ConfigurationError: job or runtime have changed, or the job is shorter than this.
        """
        if len(self.history) > job.train.epochs:
            message = f"the checkpoint is after epoch {len(self.history)}, the job has {job.train.epochs}"
            raise ConfigurationError(message, "start a new run")
        changes = self.changes_to(job, runtime)
        if not changes:
            return self
        what = ", ".join(changes)
        if not force:
            raise ConfigurationError(f"the run cannot go on as it began: {what}", changed_hint())
        log.warning("going on with force=true although this has changed: %s", what)
        since = f"since epoch {len(self.history) + 1}: {what}"
        return dataclasses.replace(self, changes=(*self.changes, since))


@dataclasses.dataclass(frozen=True)
class _About:
    """What a checkpoint's file holds besides its arrays; `job` is job.json's text."""

    job: str
    runtime: Runtime
    history: tuple[EpochRow, ...]
    generators: dict[str, Any]
    changes: tuple[str, ...]


def changed_hint(run: str = "RUN") -> str:
    """Say what to do where a run cannot go on as it began."""
    return f"undo that, or start a new run; resume {run} force=true goes on all the same and marks the result"


class Checkpoints:
    """A folder of checkpoints on a disk of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[str] = set()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint and remove those older than the newest two.

        Raises:
            BackendError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{_stem(checkpoint)}.npz"
            write(path, checkpoint)
            self._damaged.discard(path.name)
            self._prune()
        except OSError as error:
            raise storage_error(error, str(self.folder)) from error

    def newest(self) -> Checkpoint | None:
        """Return the newest sound checkpoint, or None; damaged ones are passed over, with a warning."""
        return next((checkpoint for _, checkpoint in self._sound()), None)

    def newest_file(self) -> Path | None:
        """Return the file of the newest sound checkpoint, or None. Warns as `newest` does."""
        return next((path for path, _ in self._sound()), None)

    def _sound(self) -> Iterator[tuple[Path, Checkpoint]]:
        for path in self._finished():
            checkpoint = read(path)
            if checkpoint is not None:
                yield path, checkpoint
            else:
                self._damaged.add(path.name)
                log.warning("checkpoint %s is damaged and passed over", path.name)

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
    """A folder of a mounted store, which is no POSIX disk: what is there is neither renamed nor rewritten.

    A checkpoint is written to this machine's disk, copied under a name that was never used, and exists when
    its checksum is there too. Of one that the store does not take the log tells, and the training goes on.
    """

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint here and copy it there.

        Raises:
            BackendError: this machine's disk does not take it.
        """
        name = f"{_stem(checkpoint)}-{secrets.token_hex(8)}.npz"
        try:
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as here:
                written = Path(here) / name
                write(written, checkpoint)
                self._copy(written, len(checkpoint.history))
        except OSError as error:
            raise storage_error(error, tempfile.gettempdir(), "TMPDIR=FOLDER") from error

    def _copy(self, written: Path, epoch: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in (written, written.with_suffix(".sha256")):
                shutil.copyfile(file, self.folder / file.name)
            self._prune()
        except OSError as error:
            log.warning("no checkpoint of epoch %d: the store says %s", epoch, error.strerror or error)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and its checksum last. Raises BackendError where that cannot be done."""
    import numpy as np

    about = _About(
        checkpoint.job.to_json(),
        checkpoint.runtime,
        checkpoint.history,
        checkpoint.generators,
        checkpoint.changes,
    )
    described = {"schema": migrations.SCHEMA, **dataclasses.asdict(about)}
    with atomic.replacing(path) as temporary:
        arrays: dict[str, Any] = {f"{i:04d}": array for i, array in enumerate(checkpoint.arrays)}
        arrays[_ABOUT] = np.frombuffer(json.dumps(described).encode(), np.uint8)
        np.savez(temporary, **arrays)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
    atomic.write_text(path.with_suffix(".sha256"), sha256)


def generators() -> dict[str, Any]:
    """Return the state of Python's and NumPy's global random generators, as JSON holds it."""
    import numpy as np

    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - which a network of one's own may use
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def set_generators(state: dict[str, Any]) -> None:
    """Put Python's and NumPy's global random generators into a state that `generators` gave."""
    import numpy as np

    _restore(random, np.random, state)


def _restore(of_python: Any, of_numpy: Any, state: dict[str, Any]) -> None:
    version, keys, gauss = state["python"]
    of_python.setstate((version, tuple(keys), gauss))
    of_numpy.set_state(tuple(state["numpy"]))


def _stem(checkpoint: Checkpoint) -> str:
    return f"epoch-{len(checkpoint.history):06d}"


def read(path: Path) -> Checkpoint | None:
    """Read a checkpoint that is what its checksum says and what this version writes, else return None.

    A checksum tells that the file is as it was written, not who wrote it: nothing in it is unpickled, and
    nothing is unpacked that is larger than the file.
    """
    try:
        checksum = safe_read.read_text(path.with_suffix(".sha256"), CHECKSUM_BYTES)
        with safe_read.open_file(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                return None
            return _parse(file)
    except Exception:  # noqa: BLE001 - what numpy and zipfile raise depends on where the bytes are wrong
        return None


def _parse(file: BufferedReader) -> Checkpoint:
    import numpy as np

    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            message = "it is compressed, which no checkpoint is"
            raise ValueError(message)
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        content = records.decode(stored[_ABOUT].tobytes())
        arrays = tuple(stored[name] for name in sorted(stored.files) if name != _ABOUT)
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise ValueError("it has a member that isn't an array")
    about = records.convert(_About, migrations.upgrade_checkpoint(content))
    _restore(random.Random(), np.random.RandomState(), about.generators)  # noqa: S311 - a trial
    job = Job.from_json(about.job)
    return Checkpoint(job, about.runtime, about.history, arrays, about.generators, about.changes)
