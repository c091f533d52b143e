"""Turn overrides into a checked Config with Hydra.

Apart from `search.ranges`, only this module imports Hydra. It writes nothing, reads no data and doesn't
import TensorFlow, so that mistakes are reported early.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends import absolute_name, backend_class, installed, is_outside
from mnist_cnn.config import (
    CONF_DIR,
    BackendConfig,
    Config,
    DataConfig,
    ModelConfig,
    RegisterConfig,
    Registry,
    RunConfig,
    SearchConfig,
    TrackConfig,
    TrainConfig,
)
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read
from mnist_cnn.hints import command_line, did_you_mean
from mnist_cnn.settings import Section, full_key, keys_of, read_section, unknown_key, with_inner, written
from mnist_cnn.tracking import check_installed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override
    from yaml import Node

SECTIONS: tuple[type[Section], ...] = (
    RunConfig,
    DataConfig,
    ModelConfig,
    TrainConfig,
    RegisterConfig,
    TrackConfig,
)
GROUPS = ("data", "model", "train", "backend", "track")
LIST_GROUPS = ("track",)
"""Groups that can be set to several names: `track=[mlflow,tensorboard]`."""
SEARCH = SearchConfig.GROUP
"""A group that only the command `search` composes."""
MOST_SETTINGS = 10_000
MOST_SETTINGS_BYTES = 64 * 1024
"""The most that a configuration file may have.

Those of conf/ have a few lines.
"""
MOST_COMBINATIONS = 10_000
"""The most values that a sweep or a filter may have."""
FEWER = "choose fewer values"
SETTINGS_HINT = "a configuration file should have a few lines"


def load(
    overrides: Sequence[str],
    config_dirs: Sequence[str] = (),
    backend: tuple[str, Mapping[str, Any]] | None = None,
) -> Config:
    """Compose conf/ with overrides, and check every value.

    Overrides are in Hydra's syntax. `config_dirs` are folders laid out like conf/, searched after it for more
    options of a group. `backend` is the name and settings of an existing run's backend; the overrides cannot
    replace it, but may change its settings.

    Raises:
        ConfigurationError: an unknown folder, group or key, a bad value, or a tracker that isn't installed.
    """
    if backend is None:
        values = compose(overrides, config_dirs)
    else:
        overrides = [text for text in overrides if text.partition("=")[0].strip("+") != "backend"]
        is_option = backend[0] in options("backend", config_dirs)  # it may set keys outside its group
        values = compose([f"backend={backend[0]}", *overrides] if is_option else overrides, config_dirs)
        values["backend"] = {**backend[1], **_given("backend", values, overrides), "name": backend[0]}
    for section in (DataConfig, ModelConfig, TrainConfig, RegisterConfig, BackendConfig, TrackConfig):
        values.setdefault(section.GROUP, {})  # the chosen file may set nothing of its group
    if isinstance(values["model"], dict) and values["model"].get("source") is not None:
        raise ConfigurationError("model.source is read from model.file", "set model.file=FILE.py")
    chosen = values["backend"] if isinstance(values["backend"], dict) else {}
    backend_section = backend_class(str(chosen.get("name", BackendConfig.name))).CONFIG
    run_names = [name for name, _ in keys_of(RunConfig)]
    for name, value in values.items():
        if name == SEARCH:
            hint = "leave it out, or use the command search"
            raise ConfigurationError("search=... and search.* are settings of the command search", hint)
        if name not in (*run_names, *GROUPS, "register"):
            sections = [*with_inner(*SECTIONS, backend_section)]
            known = [full_key(section, key) for section in sections for key, _ in keys_of(section)]
            known += GROUPS if isinstance(value, str) else ()
            raise unknown_key(_first_leaf(str(name), value), known)
    config = Config(
        run=read_section(RunConfig, {name: values[name] for name in run_names if name in values}),
        data=read_section(DataConfig, values["data"]),
        model=read_section(ModelConfig, values["model"]),
        train=read_section(TrainConfig, values["train"]),
        register=read_section(RegisterConfig, values["register"]),
        backend=read_section(backend_section, values["backend"]),
        track=read_section(TrackConfig, values["track"]),
    )
    _check_mlflow(config, overrides)
    check_installed(config.track.enabled)
    return config


def _check_mlflow(config: Config, overrides: Sequence[str]) -> None:
    """Refuse settings of MLflow without effect, and a missing extra.

    A configuration file may have settings without effect. Raises ConfigurationError.
    """
    given = [override.key_or_group for override in _parse(overrides)]
    register, mlflow = config.register, config.track.mlflow
    if "register.to" in given and register.name is None:
        raise ConfigurationError("register.to has no effect without register.name", "add register.name=NAME")
    registers = register.name is not None and register.to is Registry.mlflow
    if registers:
        check_installed([Registry.mlflow.value], f"register.to={Registry.mlflow.value}")
    ignored = next((key for key in given if key in ("track.mlflow.uri", "track.mlflow.experiment")), None)
    if ignored is not None and not (mlflow.enabled or registers):
        raise ConfigurationError(f"{ignored} has no effect without track=mlflow", "add track=mlflow")


def load_search(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> SearchConfig:
    """Compose the settings of a search.

    These are `search=NAME` and `search.*`. Raises as `load` does.
    """
    named = [str(override.value()) for override in _parse(overrides) if override.key_or_group == SEARCH]
    lines = overrides if named else [f"{SEARCH}={SearchConfig.name}", *overrides]
    values = compose(lines, config_dirs)[SEARCH]
    return read_section(SearchConfig, {"name": (named or [SearchConfig.name])[-1], **values})


def runs_dir(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> str:
    """Return the folder that holds the runs.

    Raises as `load` does.
    """
    values = {} if overrides or config_dirs else conf_file("config.yaml")
    if "$" in str(values.get("runs_dir", "$")):  # else Hydra, whose import takes long, isn't needed
        values = compose(overrides, config_dirs)
    return read_section(RunConfig, {"runs_dir": values["runs_dir"]}).runs_dir


@functools.cache
def conf_file(name: str) -> dict[str, Any]:
    """Return the values of an uncomposed file of conf/.

    Raises ConfigurationError if it can't be read.
    """
    import yaml

    try:
        content = (CONF_DIR / name).read_bytes()
        values: dict[str, Any] = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"conf/{name} cannot be read: {error}", "install the package again"
        ) from error
    return values


def default_values(group: str) -> dict[str, Any]:
    """Return what conf/ sets by default in a group such as `train`, or of the keys without one (`run`)."""
    main = conf_file("config.yaml")
    name, _, option = group.partition("=")
    chosen = {
        key: value for entry in main["defaults"] if isinstance(entry, dict) for key, value in entry.items()
    }
    option = option or chosen.get(name, SearchConfig.name if name == SEARCH else "")
    if not option:
        values = main if name == "run" else main[name]
    elif option in options(name):
        values = conf_file(f"{name}/{option}.yaml")
    else:  # a backend from outside
        values = {}
    inner: dict[str, Any] = values.get(name, values)
    return inner


def named_backend(overrides: Sequence[str]) -> str | None:
    """Return the overrides' backend, as a receipt names it.

    Returns None if they choose none.
    """
    names = [str(override.value()) for override in _parse(overrides) if override.key_or_group == "backend"]
    return absolute_name(names[-1]) if names else None


def compose(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
    """Compose conf/ with overrides into plain, unchecked values.

    Raises as `load` does.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for folder in config_dirs:
        if not folder or not Path(folder).is_dir():
            wrong = f" {folder}: folder not found" if folder else " needs a folder"
            raise ConfigurationError(f"--config-dir{wrong}", "it is laid out like conf/")
        _check_settings_files(Path(folder))
    lines, outside = _lines_for_hydra(overrides, config_dirs)
    try:
        with hydra.initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
            composed = hydra.compose("config", overrides=lines)
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        message = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        key = getattr(error, "full_key", None)
        message = f"{key}: {message}" if key and key not in message else message
        mark = getattr(error, "problem_mark", None)  # where a YAML file is broken
        message = f"{mark.name}, line {mark.line + 1}: {message}" if mark else message
        hint = f"see every key: {command_line('help', 'settings')}"
        raise ConfigurationError(message, hint) from error
    except RecursionError as error:
        message = "the settings are nested too deep, or their defaults name themselves"
        raise ConfigurationError(message, "check the files in --config-dir") from error
    if outside is not None:
        values["backend"] = {**_given("backend", values, overrides), "name": outside}
    return {str(name): value for name, value in values.items()}


def _lines_for_hydra(overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the overrides for Hydra, and the outside backend.

    The backend is None unless it is one that no YAML file describes.
    """
    outside = None
    lines = [f"hydra.searchpath=[{','.join(_quoted_uri(folder) for folder in config_dirs)}]"]
    for override in _parse(overrides):
        name = str(override.value()) if override.key_or_group == "backend" else ""
        if name and name not in options("backend", config_dirs) and is_outside(name):
            outside = absolute_name(name)
        else:
            lines.append(_for_hydra(override, config_dirs))
    return lines, outside


def as_yaml(config: Config) -> str:
    """Return a configuration as YAML, with every key."""
    import yaml

    sections = dataclasses.asdict(config)
    plain = json.loads(json.dumps({**sections.pop("run"), **sections}))
    return str(yaml.safe_dump(plain, sort_keys=False))


def expand(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> list[list[str]]:
    """Expand sweeps to one list of overrides per job.

    Sweeps are `a=1,2`, `range`, `choice` and `glob`. Raises ConfigurationError if an override cannot be
    parsed, if a swept key is given twice, if a sweep is an `interval` or too long, or if a `glob` matches no
    name of its group.
    """
    alternatives: list[list[str]] = []
    for override in parse_sweeps(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            alternatives.append([f"{key}={value}" for value in swept_values(override, config_dirs)])
        else:
            alternatives.append([str(override.input_line)])
    if math.prod(map(len, alternatives)) > MOST_COMBINATIONS:
        message = f"{' '.join(overrides)}: more than {MOST_COMBINATIONS} combinations"
        raise ConfigurationError(message, FEWER)
    return [list(job) for job in itertools.product(*alternatives)]


def parse_sweeps(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides.

    Raises ConfigurationError if one cannot be parsed, or a swept key is given twice.
    """
    seen: dict[str, Override] = {}
    parsed = _parse(overrides)
    for override in parsed:
        name = override.key_or_group
        before = seen.setdefault(name, override)
        if before is not override and (before.is_sweep_override() or override.is_sweep_override()):
            message = f"{name} is given twice: {before.input_line} and {override.input_line}"
            raise ConfigurationError(message, "write all of its values once, with commas between them")
    return parsed


def swept_values(override: Override, config_dirs: Sequence[str]) -> list[str]:
    """Return a sweep's values as texts.

    Raises ConfigurationError for an `interval`, too long a `range`, or a `glob` without a match.
    """
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    value, name = override.value(), override.key_or_group
    if isinstance(value, IntervalSweep):
        hint = "write the values, with commas between them"
        raise ConfigurationError(f"{override.input_line}: an interval has endless values", hint)
    if isinstance(value, RangeSweep) and range_of(override)[2] > MOST_COMBINATIONS:
        message = f"{override.input_line}: more than {MOST_COMBINATIONS} values"
        raise ConfigurationError(message, FEWER)
    if not isinstance(value, Glob):
        return list(override.sweep_string_iterator())
    if name not in GROUPS:
        hint = "write the values, with commas between them"
        raise ConfigurationError(f"{override.input_line}: glob chooses names of {', '.join(GROUPS)}", hint)
    known = options(name, config_dirs)
    if not (chosen := value.filter(known)):
        raise ConfigurationError(
            f"{override.input_line} matches nothing", f"the names are {', '.join(known)}"
        )
    return list(chosen)


def range_of(override: Override) -> tuple[Decimal, Decimal, int]:
    """Return the first number, step and length of a `range`.

    Raises ConfigurationError if the step is 0, or a number isn't finite.
    """
    sweep: Any = override.value()
    start, stop, step = (Decimal(str(value)) for value in (sweep.start, sweep.stop, sweep.step))
    check_finite(override, (start, stop, step))
    if not step:
        raise ConfigurationError(f"{override.input_line}: the step is 0", "leave it out, or set another")
    return start, step, max(0, math.ceil((stop - start) / step))


def check_finite(override: Override, numbers: Sequence[Decimal | float]) -> None:
    """Raise ConfigurationError if a number is inf or nan."""
    for number in numbers:
        if not math.isfinite(number):
            message = f"{override.input_line}: {float(number):g} isn't a finite number"
            raise ConfigurationError(message, "name the first and the last number")


def alternatives(override: str) -> tuple[str, list[Any]]:
    """Return an override's key and its value or values.

    Raises as `expand` does.
    """
    parsed = _parse([line for (line,) in expand([override])])
    return parsed[0].key_or_group, [one.value() for one in parsed]


def sweep_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys with several values, in order."""
    return [override.key_or_group for override in _parse(overrides) if override.is_sweep_override()]


def options(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return a group's possible names, sorted."""
    folders = (CONF_DIR, *map(Path, config_dirs))
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def _check_settings_files(folder: Path) -> None:
    """Refuse files that would keep Hydra busy forever.

    Aliases (`*name`) of aliases stand for exponentially many values, which OmegaConf expands. Hydra itself
    reports all other mistakes.
    """
    import yaml

    for path in sorted(path for group in ("", *GROUPS, SEARCH) for path in (folder / group).glob("*.yaml")):
        try:
            root = yaml.compose(safe_read.read_text(path, MOST_SETTINGS_BYTES))
            is_too_large = root is not None and _expanded_size(root, {}) > MOST_SETTINGS
        except (UnicodeDecodeError, ValueError, yaml.YAMLError):
            continue
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise ConfigurationError(f"{path}: {error.strerror}", SETTINGS_HINT) from error
            continue
        except RecursionError as error:
            raise ConfigurationError(f"{path} is nested too deep", SETTINGS_HINT) from error
        if is_too_large:
            message = f"{path}: with its aliases expanded it has more than {MOST_SETTINGS} values"
            raise ConfigurationError(message, "write the values without aliases")


def _expanded_size(node: Node, known: dict[int, int]) -> int:
    """Return how many values a YAML node has.

    Its aliases are expanded. Above MOST_SETTINGS if the node contains itself.
    """
    if id(node) not in known:
        known[id(node)] = MOST_SETTINGS + 1
        parts = node.value if isinstance(node.value, list) else []
        inner = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_expanded_size(part, known) for part in inner)
    return known[id(node)]


def check_are_texts(overrides: Sequence[object]) -> None:
    """Raise ConfigurationError if an override isn't a text."""
    for override in overrides:
        if not isinstance(override, str):
            hint = 'write it as text, for example "train.epochs=3"'
            raise ConfigurationError(f"{override!r} is not an override", hint)


def _parse(overrides: Sequence[str]) -> list[Override]:
    check_are_texts(overrides)
    if not overrides:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except (HydraException, ValueError) as error:  # a number of thousands of digits is a ValueError
            hint = "write KEY=VALUE; quote a value with special characters: 'KEY=\"VALUE\"'"
            raise ConfigurationError(f"cannot read the override {text}", hint) from error
    return parsed


def _for_hydra(override: Override, config_dirs: Sequence[str]) -> str:
    """Return an override as Hydra gets it.

    A key gets `++`, because the schema checks whether it exists. Raises ConfigurationError.
    """
    text = str(override.input_line)
    name = override.key_or_group
    if override.is_sweep_override():
        raise ConfigurationError(f"{text}: more than one value", "add --multirun to train once with each")
    if override.is_delete():
        raise ConfigurationError(f"{text}: a key cannot be removed", "set it to another value")
    if re.split(r"[./]", name)[0] == "hydra":
        raise ConfigurationError(f"{text}: Hydra's own settings have no effect here", "leave it out")
    if name in (*GROUPS, SEARCH):
        known = options(name, config_dirs)
        value = override.value()
        wrong = [one for one in _names(value, name) if one not in known]
        if wrong:
            known += sorted(installed()) if name == "backend" else []
            hint = did_you_mean(str(wrong[0]), known, f"keys within it are set as {name}.KEY=VALUE")
            raise ConfigurationError(f"{name}={written(value)}: must be one of {', '.join(known)}", hint)
        return f"{'+' if name == SEARCH else ''}{text.lstrip('+')}"
    return "++" + text.lstrip("+")


def _names(value: Any, group: str) -> list[Any]:
    """Return the names that a group is set to.

    These are one, or those of a list if the group takes one.
    """
    return value if isinstance(value, list) and group in LIST_GROUPS else [value]


def _given(group: str, values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a group's values that the overrides set."""
    names = {override.key_or_group for override in _parse(overrides)}
    return {
        name: value
        for name, value in values[group].items()
        if any(f"{given}.".startswith(f"{group}.{name}.") for given in names)
    }


def _quoted_uri(folder: str) -> str:
    """Return a quoted, unencoded URI for Hydra's search path."""
    path = str(Path(folder).resolve()).replace("'", r"\'")
    return f"'file://{path}'"


def _first_leaf(name: str, value: object) -> str:
    """Return the first full key under a name."""
    while isinstance(value, dict) and value:
        inner = next(iter(value))
        name, value = f"{name}.{inner}", value[inner]
    return name
