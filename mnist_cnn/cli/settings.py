"""What a job was set to, in short: the nearest options of conf/, and the keys that differ from them.

job.json is read without its digest being checked, because `list` reads thousands; `Job.from_json` checks it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_cnn import compose, migrations, records, run_folder
from mnist_cnn.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mnist_cnn.files import safe_read
from mnist_cnn.settings import Section, written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GROUPS: dict[str, type[Section]] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
SEED, SAVE_H5 = "seed", "save_h5"
NOT_SHOWN = ("data.digest", "model.source", "train.init_sha256")
"""Keys that no command needs to set, because their values are computed from files that others name."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A job's settings by their full key.

    `options` are the nearest ones, by group, or "" for data from a custom folder. `changed` is what a command
    sets for this job. As text they are what it adds.
    """

    values: Mapping[str, Any]
    options: Mapping[str, str]
    changed: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join(f"{key}={written(value)}" for key, value in self.changed.items())


@dataclasses.dataclass(frozen=True)
class _JobFile:
    """job.json, whose sections are decoded only once if several jobs have the same."""

    schema: int
    data: msgspec.Raw
    model: msgspec.Raw
    train: msgspec.Raw
    seed: int
    save_h5: bool


def read(folder: Path) -> Settings | None:
    """Return the settings of the job in a run folder, or None if job.json is missing or damaged."""
    try:
        return parse(safe_read.read_bytes(f"{folder}/{run_folder.JOB}", safe_read.SETTINGS_BYTES))
    except OSError:
        return None


def parse(text: bytes) -> Settings | None:
    """Return the settings that a job.json holds, or None if it isn't one."""
    try:
        file = msgspec.json.decode(text, type=_JobFile)
        if file.schema != migrations.SCHEMA:
            upgraded = {"schema": migrations.SCHEMA, **migrations.upgrade_job(records.decode(text))}
            file = msgspec.json.decode(json.dumps(upgraded), type=_JobFile)
        return _settings(file)
    except records.NOT_SOUND:
        return None


def _settings(file: _JobFile) -> Settings:
    train, data = _section("train", bytes(file.train), ""), _section("data", bytes(file.data), "")
    model = _section("model", bytes(file.model), _model_of(train.options["train"]))
    own = {SEED: file.seed, SAVE_H5: file.save_h5}
    defaults = {SEED: RunConfig.seed, SAVE_H5: RunConfig.save_h5}
    changed = {key: value for key, value in own.items() if value != defaults[key]}
    return Settings(
        {**data.values, **model.values, **train.values, **own},
        {**data.options, **model.options, **train.options},
        {**train.changed, **changed, **model.changed, **data.changed},
    )


@functools.cache
def _section(group: str, text: bytes, default: str) -> Settings:
    """Return the part of the settings that a section of job.json holds. Raises as `records.decode` does.

    `default` is the option that the command would choose, or "" for that of config.yaml.
    """
    default, options = default or _defaults("config.yaml")[group], _options(group)
    given = msgspec.json.decode(text, type=dict[str, Any])
    values = {key: given.get(key.partition(".")[2], value) for key, value in options[default].items()}
    nearest = min(options, key=lambda option: (_distance(values, options[option]), option != default))
    if group == "data":  # the other keys of a data set don't tell which one it is
        nearest = values["data.name"] if values["data.name"] in options else default
    changed = {} if nearest == default else {group: nearest}
    changed |= {key: values[key] for key in values if values[key] != options[nearest][key]}
    shown = {key: value for key, value in changed.items() if key not in NOT_SHOWN}
    return Settings(values, {group: "" if values.get("data.dir") else nearest}, shown)


def _distance(values: Mapping[str, Any], others: Mapping[str, Any]) -> int:
    """Return how many values differ; both mappings have the same keys in the same order."""
    return sum(map(operator.ne, values.values(), others.values()))


@functools.cache
def _options(group: str) -> dict[str, dict[str, Any]]:
    """Return the options of a group, each with the values of all keys of the group, by their full key."""
    defaults = json.loads(json.dumps(dataclasses.asdict(GROUPS[group]())))
    files = {option: compose.conf_file(f"{group}/{option}.yaml") for option in compose.options(group)}
    return {
        option: {
            f"{group}.{name}": file.get(group, file).get(name, value) for name, value in defaults.items()
        }
        for option, file in files.items()
    }


@functools.cache
def _model_of(train: str) -> str:
    """Return the option of `model` that an option of `train` chooses, or "" if it chooses none."""
    return _defaults(f"train/{train}.yaml").get("override /model", "")


def _defaults(name: str) -> dict[str, str]:
    """Return the defaults list of a file of conf/."""
    entries = compose.conf_file(name).get("defaults", [])
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}
