"""What --help prints: made from the schema, so that it says what is checked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mnist_cnn import compose
from mnist_cnn.backends import BACKENDS, installed
from mnist_cnn.config import (
    DataConfig,
    ModelConfig,
    RegisterConfig,
    RunConfig,
    TrainConfig,
    allowed,
    full_key,
    keys_of,
    sections_within,
    written,
)

if TYPE_CHECKING:
    from mnist_cnn.config import Section

VERB_LINES = """\
  train                 train, here or where backend= says; the default
  plan                  say what would be trained, where, into which folder; writes nothing
  list                  the runs: status, accuracy, backend, age
  status RUN            where a run stands
  follow RUN            watch a run to its end
  cancel RUN            end a run
  resume RUN            go on with an interrupted run from its last checkpoint
  register RUN          put a run's model into the registry, as register.name
  predict RUN IMAGE...  recognise digits in PNG or JPEG pictures
  cluster show|delete   the cluster that backend=azure trains on: what it costs, and how that ends"""

FLAGS = """\
  -m, --multirun        run every combination of the values in KEY=A,B; ends with a table, best first
  --config-dir FOLDER   more options for the groups, in a folder laid out like conf/
  --json                print the answer as JSON; what happens meanwhile goes to stderr
  --cfg job             print the whole configuration as YAML
  --version             print the version
  --info, --shell-completion, --hydra-help   are Hydra's"""

EXIT_CODES = """\
  0 done  1 a bug  2 configuration  3 data  4 backend or disk  5 the training failed
  6 the run was cancelled  130 interrupted"""


def help_text(program: str) -> str:
    """Return the whole help: verbs, every key with its meaning, what it takes and its default, flags."""
    sections: list[tuple[str, type[Section]]] = [
        ("the run", RunConfig),
        ("data", DataConfig),
        ("model", ModelConfig),
        ("train", TrainConfig),
        ("register", RegisterConfig),
    ]
    defaults = compose.compose(())
    parts = [
        f"usage: {program} [VERB] [RUN] [KEY=VALUE ...]",
        "Train a convolutional network on MNIST-like images, on this machine or wherever backend= says.",
        f"Verbs (RUN is a run's name, the beginning of one, its folder, or `latest`)\n{VERB_LINES}",
    ]
    for title, section in sections:
        parts.append(_describe(title, section, defaults))
    parts += [_describe_backend(name, defaults) for name in BACKENDS]
    parts.append(
        "  A backend of your own is chosen with backend=FILE.py:Class; its keys are those of its CONFIG."
    )
    parts.append(f"Flags\n{FLAGS}")
    parts.append(f"Exit codes\n{EXIT_CODES}")
    parts.append(
        f"Examples\n  {program} backend=local\n  {program} train.epochs=3 data.train_limit=10000 seed=1\n"
        f"  {program} --multirun train.learning_rate=0.5,1.0\n  {program} predict latest digit.png"
    )
    return "\n\n".join(parts)


def _describe(title: str, section: type[Section], defaults: dict[str, Any]) -> str:
    values = defaults.get(section.GROUP, {}) if section.GROUP else defaults
    lines = [title[:1].upper() + title[1:]]
    if section.GROUP in compose.GROUPS:
        registered = installed() if section.GROUP == "backend" else {}
        choices = ", ".join([*compose.options(section.GROUP), *sorted(registered)])
        lines.append(f"  {section.GROUP}=NAME, one of: {choices}")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name, spec in keys_of(section):
        if spec.group or dataclasses.is_dataclass(fields[name].default):
            continue
        default = values.get(name, fields[name].default)
        unit = f", in {spec.unit}" if spec.unit else ""
        lines.append(f"  {full_key(section, name)}={written(default)}")
        lines.append(f"      {spec.meaning}; {allowed(section, name)}{unit}")
    for inner in sections_within(section):
        lines += _describe("", inner, {}).splitlines()[1:]
    return "\n".join(lines)


def _describe_backend(name: str, defaults: dict[str, Any]) -> str:
    from mnist_cnn.backends import backend_class

    return _describe(f"backend={name}", backend_class(name).CONFIG, defaults)
