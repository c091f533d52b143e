"""What a run folder remembers of each tracker.

It is in tracking/NAME.json, so that any process continues it. An address's user and password are kept in the
memory of the process that was given them, and in no file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import records, run_folder
from mnist_cnn.config import MlflowConfig
from mnist_cnn.errors import BackendError
from mnist_cnn.files import atomic, locks, safe_read
from mnist_cnn.redaction import redact, without_login

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from mnist_cnn.backend import Status
    from mnist_cnn.config import TrackConfig
    from mnist_cnn.settings import Section

URI_VARIABLE = "MLFLOW_TRACKING_URI"
VIEW = "view"
SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlflow.db"
"""What MLflow's own commands use without a URI."""
_with_login: dict[str, str] = {}
"""Addresses with a login, by those without secrets.

As settings have named them.
"""


@dataclasses.dataclass(frozen=True)
class State:
    """A tracker's settings and its record of a run.

    `id` names the run at the tracker even if the answer to its creation was lost. `place` is where the run is
    there; its `view` is the page or the command that shows it. `epochs` is the newest epoch that was written;
    `status` is the end that was recorded, if any.
    """

    settings: dict[str, str]
    id: str
    place: dict[str, str] = dataclasses.field(default_factory=dict)
    epochs: records.Count = 0
    status: str | None = None


def choose(folder: Path, config: TrackConfig) -> None:
    """Remember the enabled trackers in a run folder.

    Keeps those that it has. A tracker that is given another place begins again there. Raises BackendError if
    the folder can't be written, or if another process writes the run to that tracker.
    """
    for name, section in config.enabled.items():
        if _path(folder, name).exists() and not _is_moved(read(folder, name), section):
            continue
        _path(folder, name).parent.mkdir(exist_ok=True)
        with lock(folder, name):
            save(folder, name, State(_settings(section), secrets.token_hex(8)))


def implied(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Return the override that chooses trackers again.

    These are the trackers of a run whose settings are given without `track=NAME`.
    """
    keys = [text.lstrip("+").partition("=")[0].strip() for text in overrides]
    given = {key.split(".")[1] for key in keys if key.startswith("track.")} if "track" not in keys else set()
    names = [name for name in chosen(folder) if name in given] if given else []
    return [f"track=[{','.join(names)}]"] if names else []


def describe(config: TrackConfig) -> tuple[tuple[str, str], ...]:
    """Return the line of `plan` about trackers, or nothing."""
    texts = []
    for name, section in config.enabled.items():
        settings = [f"{key} {value}" for key, value in _settings(section).items()]
        texts.append(", ".join([name, *settings]))
    return (("tracked", "; ".join(texts)),) if texts else ()


def _settings(section: Section) -> dict[str, str]:
    """Return a tracker's settings, valid in any process."""
    if isinstance(section, MlflowConfig):
        return {"uri": store(section.uri), "experiment": section.experiment}
    return {}


def _is_moved(state: State, section: Section) -> bool:
    """Return whether settings name another place than the state.

    Settings that name no place keep it.
    """
    if not isinstance(section, MlflowConfig):
        return False
    given = {"uri": store(section.uri)} if section.uri is not None else {}
    if section.experiment != MlflowConfig.experiment:
        given["experiment"] = section.experiment
    return any(state.settings.get(key) != value for key, value in given.items())


def chosen(folder: Path) -> list[str]:
    """Return the names of a run's trackers."""
    return sorted(path.stem for path in (folder / run_folder.TRACKING).glob("*.json"))


def views(folder: Path) -> list[str]:
    """Return what shows the run in each tracker.

    That is a page or a command.
    """
    with suppress(BackendError):  # a damaged file
        places = [read(folder, name).place for name in chosen(folder)]
        return [place[VIEW] for place in places if VIEW in place]
    return []


def read(folder: Path, name: str) -> State:
    """Read a tracker's state.

    Raises BackendError if it isn't one.
    """
    path = _path(folder, name)
    try:
        return records.read(State, safe_read.read_text(path, safe_read.SETTINGS_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = f"remove the file, then choose the tracker again with track={name}"
        raise BackendError(f"cannot read {path}: {reason}", hint) from error


def save(folder: Path, name: str, state: State) -> State:
    """Write a tracker's state and return it.

    Raises BackendError if that fails.
    """
    path = _path(folder, name)
    atomic.write_text(path, json.dumps(dataclasses.asdict(state), indent=2) + "\n", durable=False)
    return state


def lock(folder: Path, name: str, seconds: float = 0) -> AbstractContextManager[None]:
    """Lock a run's recording in a tracker.

    Raises as `locks.hold` does.
    """
    return locks.hold(_path(folder, name).with_suffix(".lock"), seconds)


def is_recorded(folder: Path, state: State, status: Status) -> bool:
    """Return whether a tracker has an ended run completely."""
    return state.status == status.value and state.epochs >= len(run_folder.read_history(folder))


def store(uri: str | None) -> str:
    """Return the address of MLflow's store, without secrets.

    It is valid in any process. `None` stands for MLFLOW_TRACKING_URI, or for a database in the current
    folder.
    """
    bare, whole = _addresses(uri or os.environ.get(URI_VARIABLE) or DEFAULT_URI)
    if uri and whole != bare:
        _with_login[bare] = whole
    return bare


def with_login(bare: str) -> str:
    """Return an address with its login.

    The login is the one that settings have given this process, or else the environment's.
    """
    named, whole = _addresses(os.environ.get(URI_VARIABLE) or DEFAULT_URI)
    return _with_login.get(bare, whole if named == bare else bare)


def _addresses(whole: str) -> tuple[str, str]:
    """Return an address without secrets, and the complete one."""
    if ":" not in whole and whole != "databricks":
        path = str(Path(whole).absolute())
        return path, path
    if whole.startswith(SQLITE):
        database = f"{SQLITE}{Path(whole.removeprefix(SQLITE)).absolute()}"
        return database, database
    return redact(without_login(whole)), whole


def _path(folder: Path, name: str) -> Path:
    return folder / run_folder.TRACKING / f"{name}.json"
