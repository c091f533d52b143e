"""Reads the notation of azure-ml-recorded.json: kinds of values, objects, templates of texts and paths.

A kind is a few words: `int; null in PUT replies`, `obj|null (null in the reply of the first PUT)`. The part
before the first bracket, comma or semicolon names the types; any other word there is a value that was seen,
and stands for its type. The rest is prose, of which WHEN has what can be checked.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .messages import Json

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
HEX = re.compile(r"[0-9a-f]+")


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


TESTS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "str": lambda value: isinstance(value, str),
    "int": lambda value: _is_number(value, int),
    "float": lambda value: _is_number(value, (int, float)),
    "bool": lambda value: isinstance(value, bool),
    "obj": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "time": lambda value: isinstance(value, str) and TIME.fullmatch(value) is not None,
    "uuid": lambda value: isinstance(value, str) and UUID.fullmatch(value) is not None,
    "hex": lambda value: isinstance(value, str) and HEX.fullmatch(value) is not None,
}
SEEN = {
    r"\d+": "int",
    r"(true|false)\b.*": "bool",
    r"\[\]|\d+ \w+": "list",
    r"\{\}": "obj",
}
"""The type of a value that was seen; any other text is a string."""
WHEN = {
    "null in PUT replies": "null",
    "key absent in PUT replies": "absent",
    "key ABSENT in both PUT replies": "absent",
    "GET only": "absent",
}
"""What a kind's prose says of the answer to a PUT."""
OF_OPENID = ("issuer", "tenant_discovery_endpoint")
"""Members of what OpenID specifies, of which the recording lists a part."""
DEPENDS = ("refresh_in", "properties.containerRegistry")
"""Members that are null or absent for other clients than the recorded one, and in a new workspace."""
PUBLISHED = {"properties.properties.subnet": "null|obj {id}"}
"""Kinds of members that the documents describe, and that were null in each recording."""
UPPER_CASE = "UPPER CASE"
OF_AN_UPDATE = "in the PUT reply of an update"
SOMETIMES = re.compile(r"absent|only|from 20|seen on|20\d\d-\d\d|where", re.IGNORECASE)
"""The prose of a member that is not in every answer."""


@functools.cache
def facts() -> Json:
    """Return what was recorded."""
    loaded: Json = json.loads((Path(__file__).parent / "azure-ml-recorded.json").read_text())
    return loaded


def mismatches(kind: Any, value: Any, where: str) -> Iterator[str]:
    """Yield how a value differs from a kind, or from an object of kinds, which must have all its members."""
    if not isinstance(kind, dict):
        if not any(TESTS[name](value) for name in types(str(kind))):
            yield f"{where}: {value!r} is not {kind}"
        if UPPER_CASE in str(kind) and value != str(value).upper():
            yield f"{where}: {value!r} is not in upper case"
        named = re.search(r"\bobj\s*\{([\w ]+)\}", str(kind))
        if named and isinstance(value, dict):
            yield from _other_members(set(named[1].split()), value, where)
    elif not isinstance(value, dict):
        yield f"{where}: {value!r} is not an object"
    else:
        yield from _other_members(set(kind), value, where)
        for name, inner in kind.items():
            if name in value:
                yield from mismatches(inner, value[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}: missing"


def types(kind: str) -> list[str]:
    """Return the names of the types that a kind allows."""
    if "(float)" in kind:
        return ["float"]
    head = re.split(r"[;,(:]", kind.replace(", or ", "|"))[0]
    return [_type(word.strip()) for word in head.split("|")]


def _type(word: str) -> str:
    first = re.split(r"[ {]", word)[0]
    if first in TESTS:
        return first
    if re.fullmatch(r"\d+ hex", word):
        return "hex"
    return next((kind for seen, kind in SEEN.items() if re.fullmatch(seen, word)), "str")


def _other_members(known: set[str], value: Json, where: str) -> Iterator[str]:
    yield from (f"{where}.{name}: was not recorded" for name in value if name not in known)


def flat_mismatches(shape: Json, body: Any, *, is_put: bool) -> Iterator[str]:
    """Yield how a body differs from a shape whose keys are paths, such as `properties.properties.vmSize`.

    A shape without an id lists only what surprised in the recording, so that a body may have more.
    """
    is_part = "id" not in shape and any("." in path for path in shape)
    if not is_part and not set(OF_OPENID) & set(shape):
        yield from _unknown_paths(shape, body, "")
    state = _at(body, ["properties", "provisioningState"])[1]
    for path, kind in shape.items():
        found, value = _at(body, path.split("."))
        rule = next((rule for prose, rule in WHEN.items() if prose in str(kind)), "")
        if rule and is_put:
            if found and (rule == "absent" or value is not None):
                yield f"{path}: must be {rule} in the reply to a PUT"
        elif (is_put and OF_AN_UPDATE in str(kind)) or (path in DEPENDS and value is None):
            continue
        elif found and not (rule and state != "Succeeded" and value is None):
            yield from mismatches(PUBLISHED.get(path, kind), value, path)
        elif not found and not rule and not SOMETIMES.search(str(kind)):
            yield f"{path}: missing"


def _unknown_paths(shape: Json, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        below = f"{path}{name}"
        if any(known.startswith(f"{below}.") for known in shape):
            yield from _unknown_paths(shape, inner, f"{below}.")
        elif below not in shape:
            yield f"{below}: was not recorded"


def _at(value: Any, names: list[str]) -> tuple[bool, Any]:
    """Return whether a member exists, and its value."""
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


@functools.cache
def template(text: str, inner: str = "[^/]*") -> re.Pattern[str]:
    """Return the expression of a path with parts in braces, dots for a left-out part, and prose at the end.

    `inner` is what a part in braces may be.
    """
    head = re.split(r" \(|\?", text)[0]
    parts = re.split(r"(\{[^}]*\}|\.\.\.\.?)", head)
    return re.compile(
        "".join(
            ".*" if part.startswith("...") else inner if part.startswith("{") else re.escape(part)
            for part in parts
        ),
        re.IGNORECASE | re.DOTALL,
    )


def fits(text: str, value: Any) -> bool:
    """Return whether a value is a text with anything in the place of the parts in braces."""
    return isinstance(value, str) and template(text, ".*").fullmatch(value) is not None
