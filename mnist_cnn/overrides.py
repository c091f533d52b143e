"""Express a job as the overrides that make it.

These are the nearest options of conf/, and the keys that differ from them. job.json is read without its
digest being checked, because `list` reads thousands; `Job.from_json` checks it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_cnn import compose, job_maker, migrations, records, run_folder
from mnist_cnn.config import DataConfig, ModelConfig, Optimizer, RunConfig, TrainConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read
from mnist_cnn.job import Job
from mnist_cnn.settings import written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mnist_cnn.settings import Section

GROUPS: dict[str, type[Section]] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
OWN = {"seed": RunConfig.seed, "save_h5": RunConfig.save_h5}
"""A job's keys without a group, with defaults."""
SOURCE, RATE, NUM_CLASSES = "model.source", "train.learning_rate", "data.num_classes"
CLASSES = 10
"""The classes of each named data set."""
COMPUTED = ("data.digest", SOURCE, "train.init_sha256")
"""Keys whose values are computed from files.

No command needs to set them.
"""
_PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)$)[A-Za-z_./][\w./-]*", re.IGNORECASE)
"""Texts that Hydra reads as texts without quotes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A job's settings by their full key.

    `options` are the nearest ones, by group, or "" for data from a custom folder. `changed` is what differs
    from a job without overrides: options by their group, and the keys that differ from those options.
    """

    values: Mapping[str, Any]
    options: Mapping[str, str]
    changed: Mapping[str, Any]

    @property
    def shown(self) -> dict[str, Any]:
        """What a command sets for this job."""
        return {key: value for key, value in self.changed.items() if key not in COMPUTED}

    def __str__(self) -> str:
        return " ".join(f"{key}={written(value)}" for key, value in self.shown.items())


@dataclasses.dataclass(frozen=True)
class _JobFile:
    """job.json, with undecoded sections.

    Equal sections of several jobs are decoded only once.
    """

    schema: int
    data: msgspec.Raw
    model: msgspec.Raw
    train: msgspec.Raw
    seed: int
    save_h5: bool


def read(folder: Path) -> Settings | None:
    """Return the settings in a run folder's job.json.

    Returns None if job.json is missing or damaged.
    """
    try:
        return parse(safe_read.read_bytes(f"{folder}/{run_folder.JOB}", safe_read.SETTINGS_BYTES))
    except OSError:
        return None


def parse(text: bytes) -> Settings | None:
    """Return the settings in a job.json, or None."""
    try:
        file = msgspec.json.decode(text, type=_JobFile)
        if file.schema != migrations.SCHEMA:
            upgraded = {"schema": migrations.SCHEMA, **migrations.upgrade_job(records.decode(text))}
            file = msgspec.json.decode(json.dumps(upgraded), type=_JobFile)
        return _settings(file)
    except records.NOT_SOUND:
        return None


def settings_of(job: Job) -> Settings:
    """Return a job's settings."""
    return _settings(msgspec.json.decode(job.to_json(), type=_JobFile))


def defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of all keys of a job; a null learning rate depends on the job's own values."""
    chosen = _defaults("config.yaml")
    sections = (_with_numbers(_options(group)[chosen[group]], values) for group in GROUPS)
    return {key: value for section in (OWN, *sections) for key, value in section.items()}


def overrides_of(job: Job) -> tuple[str, ...]:
    """Return the overrides that make exactly this job.

    These are a recipe, a network and what differs from them. A job with a `model.file` needs that file in the
    current folder. Raises ConfigurationError if no overrides make this job.
    """
    left_out = {SOURCE}
    if job.data.dir is None:  # data sets are known by name
        left_out.add("data.digest")
    settings = settings_of(job)
    changed = {key: value for key, value in settings.changed.items() if key not in left_out}
    overrides = tuple(f"{key}={quoted(value)}" for key, value in changed.items())
    with suppress(ConfigurationError):
        config = job_maker.with_numbers(compose.load(overrides), CLASSES)
        made = Job(config.data, config.model, config.train, config.run.seed, config.run.save_h5)
        values = settings_of(made).values
        if all(values[key] == value for key, value in settings.values.items() if key not in left_out):
            return overrides
    raise ConfigurationError("no command line makes this job", "copy its job.json instead")


def _settings(file: _JobFile) -> Settings:
    train, data = _section("train", bytes(file.train), ""), _section("data", bytes(file.data), "")
    model = _section("model", bytes(file.model), _model_of(train.options["train"]))
    own = {"seed": file.seed, "save_h5": file.save_h5}
    changed = {key: value for key, value in own.items() if value != OWN[key]}
    return Settings(
        {**data.values, **model.values, **train.values, **own},
        {**data.options, **model.options, **train.options},
        {**train.changed, **changed, **model.changed, **data.changed},
    )


@functools.cache
def _section(group: str, text: bytes, default: str) -> Settings:
    """Return the settings in one section of job.json.

    `default` is the option that the command would choose, or "" for that of config.yaml. Raises as
    `msgspec.json.decode` does.
    """
    default = default or _defaults("config.yaml")[group]
    given = msgspec.json.decode(text, type=dict[str, Any])
    values = {key: given.get(key.partition(".")[2], value) for key, value in _options(group)[default].items()}
    options = {name: _with_numbers(option, values) for name, option in _options(group).items()}
    nearest = min(options, key=lambda option: (_distance(values, options[option]), option != default))
    if group == "data":  # the other keys of a data set don't tell which one it is
        nearest = values["data.name"] if values["data.name"] in options else default
    changed = {} if nearest == default else {group: nearest}
    changed |= {key: values[key] for key in values if values[key] != options[nearest][key]}
    return Settings(values, {group: "" if values.get("data.dir") else nearest}, changed)


def _with_numbers(option: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option's values with the numbers that a job with the given values has for some of its nulls.

    A null learning rate is that of the job's optimizer. A null number of classes is that of a named data set;
    how many the labels in a folder have is not known here.
    """
    numbers = dict(option)
    if RATE in numbers and numbers[RATE] is None:
        numbers[RATE] = Optimizer(values["train.optimizer"]).rate
    if NUM_CLASSES in numbers and numbers[NUM_CLASSES] is None and values["data.dir"] is None:
        numbers[NUM_CLASSES] = CLASSES
    return numbers


def _distance(values: Mapping[str, Any], others: Mapping[str, Any]) -> int:
    """Return how many values differ.

    Both mappings have the same keys in the same order.
    """
    return sum(map(operator.ne, values.values(), others.values()))


@functools.cache
def _options(group: str) -> dict[str, dict[str, Any]]:
    """Return the options of a group.

    Each has the values of all the group's keys, by full key.
    """
    usual = json.loads(json.dumps(dataclasses.asdict(GROUPS[group]())))
    files = {option: compose.conf_file(f"{group}/{option}.yaml") for option in compose.options(group)}
    return {
        option: {f"{group}.{name}": file.get(group, file).get(name, value) for name, value in usual.items()}
        for option, file in files.items()
    }


@functools.cache
def _model_of(train: str) -> str:
    """Return the `model` option that a `train` option chooses.

    Returns "" if it chooses none.
    """
    return _defaults(f"train/{train}.yaml").get("override /model", "")


def _defaults(name: str) -> dict[str, str]:
    """Return the defaults list of a file of conf/."""
    entries = compose.conf_file(name).get("defaults", [])
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}


def quoted(value: object) -> str:
    """Return a value as Hydra's overrides write it."""
    if not isinstance(value, str) or _PLAIN_TEXT.fullmatch(value):
        return written(value)
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), value)
    return '"' + escaped.replace("${", r"\${") + '"'
