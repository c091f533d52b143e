"""Defines configuration keys, and converts their values.

The schema itself, with all sections, is `config`. msgspec checks each value when a section is made.
"""

from __future__ import annotations

import dataclasses
import math
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from mnist_cnn import records
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line, did_you_mean
from mnist_cnn.migrations import RENAMED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

T = TypeVar("T")
S = TypeVar("S", bound="Section")

TRUTH_WORDS = {"yes": True, "on": True, "no": False, "off": False}
"""YAML 1.1's truth values that Hydra reads as text."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A configuration key's meaning and bounds."""

    meaning: str
    unit: str = ""
    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None
    group: bool = False

    def bounds(self) -> str:
        """Return the bounds in words, or "" if unbounded."""
        if self.ge is not None and self.le is None and self.lt is None:
            return f"{self.ge} or more"
        limits = {"from": self.ge, "above": self.gt, "to": self.le, "below": self.lt}
        return " ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)


def setting(default: T, meaning: str, **bounds: Any) -> T:
    """Declare a configuration key: a field with its `Setting`."""
    field: T = dataclasses.field(default=default, metadata={"setting": Setting(meaning, **bounds)})
    return field


def inner(section: type[S], meaning: str) -> S:
    """Declare a section within a section, with its defaults."""
    field: S = dataclasses.field(default_factory=section, metadata={"setting": Setting(meaning)})
    return field


@dataclasses.dataclass(frozen=True)
class Section:
    """A dataclass of configuration keys with checked values."""

    GROUP: ClassVar[str] = ""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name, spec in keys_of(type(self)):
            if not _is_section(kinds[name]):
                try:
                    value = _converted(getattr(self, name), kinds[name], spec)
                except records.NOT_SOUND as error:
                    raise refused(type(self), name, getattr(self, name)) from error
                object.__setattr__(self, name, value)


def keys_of(section: type[Any]) -> Iterator[tuple[str, Setting]]:
    """Yield a section's configuration keys, in order."""
    for field in dataclasses.fields(section):
        if "setting" in field.metadata:
            yield field.name, field.metadata["setting"]


def value_keys(section: type[Any]) -> Iterator[tuple[str, Setting]]:
    """Yield the keys that hold a value.

    Leaves out the name of a group's choice, and inner sections.
    """
    kinds = get_type_hints(section)
    return (
        (name, spec) for name, spec in keys_of(section) if not spec.group and not _is_section(kinds[name])
    )


def sections_within(section: type[Section]) -> Iterator[type[Section]]:
    """Return the sections within a section.

    For example, `backend.data` is within `backend`.
    """
    return filter(_is_section, get_type_hints(section).values())


def with_inner(*sections: type[Section]) -> Iterator[type[Section]]:
    """Yield each section, and the sections within it."""
    for section in sections:
        yield from (section, *sections_within(section))


def full_key(section: type[Section], name: str) -> str:
    """Return a key's full name, for example `train.epochs`."""
    return f"{section.GROUP}.{name}" if section.GROUP else name


def allowed(section: type[Section], name: str) -> str:
    """Describe the values that a key takes.

    For example: "a whole number from 1 to 100000, or null".
    """
    spec = dict(keys_of(section))[name]
    kind = get_type_hints(section)[name]
    text = ", or ".join(map(_kind_text, _members(kind)))
    bounds = spec.bounds()
    return f"{text}{' ' + bounds if bounds else ''}{', or null' if type(None) in get_args(kind) else ''}"


def _kind_text(kind: Any) -> str:
    """Describe the values of a non-union type."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(choice.value) for choice in kind]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    texts = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text that is not empty",
        tuple[int, ...]: "a list of whole numbers",
        tuple[float, ...]: "a list of numbers",
        tuple[str, ...]: "a list of texts",
    }
    return texts.get(kind, str(kind))


def refused(section: type[Section], name: str, value: object) -> ConfigurationError:
    """Return the error for a value that isn't valid."""
    return ConfigurationError(
        f"{full_key(section, name)}={written(value)}: must be {allowed(section, name)}",
        f"{full_key(section, name)}: {dict(keys_of(section))[name].meaning}",
    )


def written(value: object) -> str:
    """Return a value as one line of override syntax."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(written(item) for item in value) + "]"
    return str(value).replace("\n", "\\n")


def read_section(section: type[S], values: Mapping[str, Any]) -> S:
    """Make a section from YAML's or JSON's plain values.

    Raises ConfigurationError for an unknown key, a wrong type, or a value out of bounds.
    """
    known = dict(keys_of(section))
    if not isinstance(values, dict):
        message = f"{section.GROUP}={written(values)}: {section.GROUP} is a group of keys"
        raise ConfigurationError(message, f"for example {full_key(section, next(iter(known)))}")
    for name in values:
        if name not in known:
            raise _not_a_key(section, str(name))
    kinds = get_type_hints(section)
    nested = {name: read_section(kinds[name], values[name]) for name in values if _is_section(kinds[name])}
    return section(**{**values, **nested})


def _not_a_key(section: type[Section], name: str) -> ConfigurationError:
    key = full_key(section, name)
    new_key = RENAMED.get(key, key)
    if new_key is None:
        return ConfigurationError(f"{key} was removed", "leave it out")
    if new_key in (full_key(section, other) for other, _ in keys_of(section)):
        return ConfigurationError(f"{key} was renamed", f"use {new_key}")
    known = [full_key(section, other) for other, spec in keys_of(section) if not spec.group]
    topic = section.GROUP.partition(".")[0] or "run"
    hint = did_you_mean(key, known, f"see its keys: {command_line('help', topic)}")
    return ConfigurationError(f"unknown key {key}", hint)


def _converted(value: object, kind: Any, spec: Setting) -> object:
    """Return a value as a key's type.

    A text may spell a number or a truth value; a key that takes text takes a number as text. Raises one of
    `records.NOT_SOUND` if the value does not fit.
    """

    def number(text: object) -> object:
        return msgspec.json.decode(text) if isinstance(text, str) and text != "null" else text

    if {tuple[int, ...], tuple[float, ...]} & {*_members(kind)} and isinstance(value, list | tuple):
        value = [number(item) for item in value]
    elif {int, float} & {*_members(kind)}:
        value = number(value)
    elif kind is bool and isinstance(value, str):
        value = TRUTH_WORDS.get(value, value)
    elif str in _members(kind) and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    converted = msgspec.convert(value, _bounded(kind, spec), strict=kind is not bool)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError("not finite")
    return converted


def _bounded(kind: Any, spec: Setting) -> Any:
    """Return a key's type with its bounds, for msgspec."""
    if kind is str:
        return Annotated[str, Meta(min_length=1)]
    if kind in (int, float):
        limits = {name: getattr(spec, name) for name in ("ge", "le", "gt", "lt")}
        return Annotated[kind, Meta(**{name: limit for name, limit in limits.items() if limit is not None})]
    if get_origin(kind) is tuple:
        return tuple[_bounded(get_args(kind)[0], spec), ...]  # type: ignore[misc]
    if type(None) in get_args(kind):
        return Union[*(_bounded(member, spec) for member in _members(kind)), None]
    return kind


def _members(kind: Any) -> tuple[Any, ...]:
    """Return a type's or union's members without None."""
    members = get_args(kind) if type(None) in get_args(kind) else (kind,)
    return tuple(member for member in members if member is not type(None))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def unknown_key(name: str, known: Collection[str]) -> ConfigurationError:
    """Return the error for an unknown key."""
    hint = did_you_mean(name, known, f"see every key: {command_line('help', 'settings')}")
    return ConfigurationError(f"unknown key {name}", hint)
