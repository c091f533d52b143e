"""Records: frozen dataclasses that files hold as JSON.

msgspec reads and checks them. A record's fields carry their bounds in their types, for example `Count` or
`Number`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""A whole number that a float holds exactly.

JSON's numbers have no bound.
"""
Number = Annotated[float, Meta(ge=-1e100, le=1e100)]
"""A finite number.

The bound is far from what a training computes, and from Python's largest float.
"""
FileName = Annotated[str, Meta(pattern=r"\A(?!\.{1,2}\Z)[^/\\]+\Z")]
"""A name without a folder."""
NOT_SOUND = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises.

Before version 0.21 its errors are not ValueErrors.
"""


def decode(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises ValueError if it isn't JSON.
    """
    try:
        return msgspec.json.decode(text)
    except NOT_SOUND as error:
        raise ValueError(_on_one_line(error)) from error


def convert(kind: type[T], value: Any) -> T:
    """Return a plain value as a record.

    Raises ValueError if a field is missing, unknown or wrong.
    """
    names = _names(kind)  # type: ignore[arg-type] # a class is hashable
    if isinstance(value, dict) and not value.keys() <= names:
        raise ValueError(f"unknown field {min(map(repr, value.keys() - names))}")
    try:
        return msgspec.convert(value, kind)
    except NOT_SOUND as error:
        raise ValueError(_on_one_line(error)) from error


@functools.cache
def _names(kind: type[Any]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))


def read(kind: type[T], text: str | bytes) -> T:
    """Return the record in a JSON text.

    Raises ValueError if it holds none.
    """
    return convert(kind, decode(text))


def digest(content: Any) -> str:
    """Return the SHA-256 of a plain value, in hex.

    Hashes it as canonical JSON. Raises ValueError if it isn't a plain value.
    """
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise ValueError(_on_one_line(error)) from error
    return hashlib.sha256(text.encode()).hexdigest()


def _on_one_line(error: Exception) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(error))
