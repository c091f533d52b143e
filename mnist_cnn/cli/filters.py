"""The KEY=VALUE filters of `list`.

KEY is a setting, a group, a setting of the backend, or a fact about the run. `KEY=A,B` means A or B.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_cnn import compose
from mnist_cnn.backend import Status
from mnist_cnn.backends import absolute_name
from mnist_cnn.config import RunConfig
from mnist_cnn.errors import ConfigurationError, MnistCnnError
from mnist_cnn.hints import did_you_mean
from mnist_cnn.overrides import GROUPS, OWN
from mnist_cnn.run_folder import MODEL
from mnist_cnn.settings import Section, full_key, keys_of, read_section, unknown_key, written
from mnist_cnn.training import initial_weights

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mnist_cnn.overrides import Settings
    from mnist_cnn.receipt import Receipt

    Wanted = Mapping[str, Sequence[Any]]

STATUS, BACKEND, DIGEST = "status", "backend", "digest"
FACTS = (STATUS, BACKEND, DIGEST)
"""What filters accept in addition to settings and groups."""
NOT_STARTED, DAMAGED = "not started", "damaged"
"""The statuses of folders without a readable receipt."""
STATUSES = (*(status.value for status in Status), NOT_STARTED, DAMAGED)
SETTINGS: dict[str, tuple[type[Section], str]] = {
    **{
        full_key(section, name): (section, name)
        for section in GROUPS.values()
        for name, _ in keys_of(section)
    },
    **{name: (RunConfig, name) for name in OWN},
}


def parse(overrides: Sequence[str], runs_dir: str = RunConfig.runs_dir) -> Wanted:
    """Return the allowed values of each key. Raises ConfigurationError."""
    wanted: dict[str, list[Any]] = {}
    given: dict[str, str] = {}
    for override in overrides:
        key, values = compose.alternatives(override)
        if key in given:
            message = f"{key} is given twice: {given[key]} and {override}"
            raise ConfigurationError(message, "write all of its values once, with commas between them")
        given[key] = override
        if not key.startswith("backend."):
            check_key(key, (*FACTS, *GROUPS), key)
        if key == DIGEST:  # Hydra would take 3e10 for a number
            values = override.partition("=")[2].split(",")
        allowed = [_allowed(key, value) for value in values]
        wanted[key] = [one for value in allowed for one in _stored(key, value, runs_dir)]
    return wanted


def _stored(key: str, value: Any, runs_dir: str) -> Sequence[Any]:
    """Return what a job may hold if the setting was this value.

    Jobs hold absolute paths of data and initial weights. The run that `train.init` names may be gone.
    """
    if value is not None and key == "data.dir":
        return [str(Path(value).resolve())]
    if value is not None and key == "train.init":
        with suppress(MnistCnnError):
            return [str(initial_weights.locate(value, runs_dir))]
        folders = (Path(runs_dir) / value, Path(value))
        return [str(path.resolve()) for folder in folders for path in (folder, folder / MODEL)]
    if value is not None and key == "model.file":
        return [Path(value).name]
    return [value]


def check_key(key: str, others: Collection[str], what: str) -> None:
    """Check that a key is known.

    It must be a setting or one of `others`. Raises ConfigurationError, which names `what`.
    """
    if key not in SETTINGS and key not in others:
        error = unknown_key(key, [*others, *SETTINGS])
        raise ConfigurationError(error.message if what == key else f"{what}: {error.message}", error.hint)


def _allowed(key: str, value: object) -> Any:
    """Return a filter's value as job.json holds it.

    Raises ConfigurationError if the value isn't valid.
    """
    if key in SETTINGS:
        section, name = SETTINGS[key]
        return msgspec.json.decode(msgspec.json.encode(getattr(read_section(section, {name: value}), name)))
    if key == BACKEND:
        return absolute_name(str(value))
    if key in GROUPS or key == STATUS:
        known = STATUSES if key == STATUS else compose.options(key)
        if value not in known:
            hint = did_you_mean(str(value), known, f"{key}=A,B means A or B")
            raise ConfigurationError(f"{key}={written(value)}: must be one of {', '.join(known)}", hint)
        return value
    return written(value)


def match(wanted: Wanted, receipt: Receipt | None, found: Settings | None) -> bool:
    """Return whether a run matches, except for its status."""
    return all(_has(key, values, receipt, found) for key, values in wanted.items() if key != STATUS)


def _has(key: str, values: Sequence[Any], receipt: Receipt | None, found: Settings | None) -> bool:
    if key == DIGEST:
        return receipt is not None and receipt.job_digest.startswith(tuple(values))
    if key == BACKEND:
        return receipt is not None and receipt.backend in values
    if key.startswith("backend."):
        name = key.partition(".")[2]
        return receipt is not None and written(receipt.backend_settings.get(name)) in values
    if found is None:
        return False
    return (found.options if key in GROUPS else found.values).get(key) in values
