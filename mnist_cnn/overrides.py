"""A job as the overrides that make it: the command line that repeats a run."""

from __future__ import annotations

import functools
import itertools
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

from mnist_cnn import compose
from mnist_cnn.config import CONF_DIR, DataConfig, ModelConfig, RunConfig, TrainConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import full_key, keys_of, read_section, written

if TYPE_CHECKING:
    from mnist_cnn.job import Job
    from mnist_cnn.settings import Section

NOT_OF_A_JOB = ("model.source", "run_dir", "runs_dir", "force")
_PLAIN_TEXT = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)$)[A-Za-z_./][\w./-]*", re.IGNORECASE)
"""Texts that Hydra reads as texts without quotes."""


def overrides_of(job: Job) -> tuple[str, ...]:
    """Return the fewest overrides that make this job: a recipe, a network and what differs from them.

    A job with a `model.file` needs that file in the current folder.

    Raises ConfigurationError if no overrides make this job.
    """
    pairs = itertools.product(compose.options("train"), compose.options("model"))
    for overrides in sorted((_candidate(job, *pair) for pair in pairs), key=len):
        with suppress(ConfigurationError):
            config = compose.load(overrides)
            if not _differing(job, config.run, config.data, config.model, config.train):
                return overrides
    raise ConfigurationError("no command line makes this job", "copy its job.json instead")


def defaults() -> dict[str, Any]:
    """Return every key of a job with its value if no override is given."""
    return _values(*_sections(**_usual_options()))


def settings(job: Job) -> dict[str, Any]:
    """Return every key of a job with its value; the text of a `model.file` is left out."""
    return _values(RunConfig(seed=job.seed, save_h5=job.save_h5), job.data, job.model, job.train)


def _values(*sections: Section) -> dict[str, Any]:
    return {
        key: getattr(section, name)
        for section in sections
        for name, _ in keys_of(type(section))
        if (key := full_key(type(section), name)) not in NOT_OF_A_JOB
    }


def _differing(job: Job, *sections: Section) -> dict[str, Any]:
    """Return the settings of a job that these sections don't have.

    The digest of the data is only needed if they come from a folder, because the others are known by name.
    """
    others = _values(*sections)
    is_named = job.data.dir is None
    return {
        key: value
        for key, value in settings(job).items()
        if value != others[key] and not (key == "data.digest" and is_named)
    }


def _candidate(job: Job, train: str, model: str) -> tuple[str, ...]:
    """Return overrides that should make this job, with these options of `train` and `model`."""
    usual = _usual_options(train)
    chosen = {"data": job.data.name, "model": model, "train": train}
    choices = {
        group: option
        for group, option in chosen.items()
        if option != usual[group] and option in compose.options(group)
    }
    changes = _differing(job, *_sections(**usual | choices))
    return (
        *(f"{group}={option}" for group, option in choices.items()),
        *(f"{key}={quoted(value)}" for key, value in changes.items()),
    )


# What Hydra makes of the options' files. Hydra itself would take a tenth of a second for each combination.


def _usual_options(train: str | None = None) -> dict[str, str]:
    """Return the option of each group of a job, if `train` is the only one that is chosen."""
    composed = _content("config.yaml")["defaults"]
    options = {
        group: option for entry in composed if isinstance(entry, dict) for group, option in entry.items()
    }
    for entry in _content(f"train/{train or options['train']}.yaml").get("defaults", ()):
        options |= {group.removeprefix("override /"): option for group, option in entry.items()}
    return {group: options[group] for group in ("data", "model", "train")}


def _sections(data: str, model: str, train: str) -> tuple[Section, ...]:
    """Return the sections of a job with these options and nothing else."""
    recipe = _content(f"train/{train}.yaml")
    return (
        RunConfig(),
        read_section(DataConfig, _content(f"data/{data}.yaml")),
        read_section(ModelConfig, _content(f"model/{model}.yaml")),
        read_section(TrainConfig, recipe.get("train", recipe)),  # a recipe may set several groups
    )


@functools.cache
def _content(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONF_DIR / name).read_text(encoding="utf-8"))
    return content


def quoted(value: object) -> str:
    """Return a value as Hydra's overrides write it."""
    if not isinstance(value, str) or _PLAIN_TEXT.fullmatch(value):
        return written(value)
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), value)
    return '"' + escaped.replace("${", r"\${") + '"'
