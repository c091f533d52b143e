"""The local registry: folders NAME/VERSION/ with model and metadata."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef
from mnist_cnn.errors import BackendError, storage_error
from mnist_cnn.files import atomic, locks, safe_read
from mnist_cnn.registered import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.result import Result

SETTING = "register.dir=FOLDER"


def add(registry: Path, name: str, run: Path, result: Result) -> ModelRef:
    """Register a run's model as the next version.

    A registered run keeps its version. Versions start at 1.

    Raises:
        BackendError: a file of the run is damaged; the registry cannot be written, is damaged, or another
            process holds it for a minute.
    """
    run_folder.verify(run, result)
    home = registry / name
    run_id = run_folder.read_receipt(run).id
    try:
        atomic.make_folder(home, exist_ok=True)
        with locks.hold(home / run_folder.LOCK, locks.TIMEOUT_SECONDS, SETTING):
            for version, registered_run in _versions(home):
                if registered_run == run_id:
                    return ModelRef(name, version, str(home / str(version)), is_new=False)
            taken = [int(folder.name) for folder in home.iterdir() if folder.name.isdecimal()]
            version = max(taken, default=0) + 1
            model = ModelRef(name, version, str(home / str(version)), is_new=True)
            for leftover in home.glob(f"{atomic.PREFIX}*"):  # of a process that was killed
                shutil.rmtree(leftover)
            with atomic.new_folder(home / str(version), SETTING) as draft:
                _fill(draft, model, run, result)
    except OSError as error:
        raise storage_error(error, f"the registry {home}", SETTING) from error
    return model


def _versions(home: Path) -> Iterator[tuple[int, str]]:
    """Yield each finished version and its run's id."""
    for folder in home.iterdir():
        if folder.name.isdecimal() and (folder / RECORD).is_file():
            try:
                about = json.loads(safe_read.read_text(folder / RECORD, safe_read.SETTINGS_BYTES))
                yield int(folder.name), str(about["run"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                hint = "repair or remove that version, or register under another name"
                raise BackendError(f"{folder / RECORD} is damaged: {error!r}", hint) from error


def _fill(folder: Path, model: ModelRef, run: Path, result: Result) -> None:
    files = [file for file in (run_folder.MODEL, run_folder.ONNX) if file in result.files]
    for file in files:
        with atomic.replacing(folder / file) as temporary:
            shutil.copyfile(run / file, temporary)
    about = {
        "name": model.name,
        "version": model.version,
        "run": run_folder.read_receipt(run).id,
        "registered": run_folder.now(),
        "job_digest": result.job_digest,
        "accuracy": result.accuracy,
        "weights_sha256": result.weights_sha256,
        "versions": result.versions,
        "changes": result.changes,
        "files": {file: dataclasses.asdict(result.files[file]) for file in files},
    }
    atomic.write_text(folder / RECORD, json.dumps(about, indent=2) + "\n")
