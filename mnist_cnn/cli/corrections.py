"""What was meant by a word or a flag that no command takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn import compose
from mnist_cnn.backends.local import LocalConfig
from mnist_cnn.cli.catalog import COMMANDS, FLAGS
from mnist_cnn.config import SearchConfig
from mnist_cnn.hints import ALIASES, command_line, nearest
from mnist_cnn.settings import full_key, value_keys, with_inner

if TYPE_CHECKING:
    from collections.abc import Sequence


def hint(word: str, following: Sequence[str]) -> str:
    """Return a hint with what was meant by a word, or by a flag such as `--epochs`.

    The first of the `following` arguments may be its value.
    """
    meant = _flag(word, following) if word.startswith("-") else _word(word, following)
    return f"did you mean {meant}?" if meant else f"commands, flags and KEY=VALUE: {command_line('help')}"


def _word(word: str, following: Sequence[str]) -> str | None:
    keys = _keys()
    if (key := _key(word, keys)) is not None:
        return f"{key}={_value(following)}"
    groups = (*compose.GROUPS, compose.SEARCH)
    if word in groups:
        return f"{word}={_value(following)}"
    for group in groups:
        if word in compose.options(group):
            return f"{group}={word}"
    return nearest(word, [*COMMANDS, *keys])


def _flag(argument: str, following: Sequence[str]) -> str | None:
    flag, is_given, value = argument.partition("=")
    name, keys = flag.strip("-").replace("-", "_"), _keys()
    value = value if is_given else _value(following)
    if (key := _key(name, keys)) is not None:
        return f"{key}={value}"
    own = (name for entry in COMMANDS.values() for name in entry.flags)
    meant = nearest(flag, [*(name.partition(" ")[0] for name in FLAGS), *own])
    if meant is None and (key := nearest(name, keys)) is not None:
        return f"{key}={value}"
    return meant


def _keys() -> list[str]:
    sections = with_inner(*compose.SECTIONS, LocalConfig, SearchConfig)
    return [full_key(section, name) for section in sections for name, _ in value_keys(section)]


def _key(name: str, keys: Sequence[str]) -> str | None:
    """Return the key with this name, or whose last part is this name."""
    last = ALIASES.get(name, name)
    return next((key for key in keys if name == key or last == key.rpartition(".")[2]), None)


def _value(following: Sequence[str]) -> str:
    is_value = following and not following[0].startswith("-") and "=" not in following[0]
    return following[0] if is_value else "VALUE"
