"""What `--help`, `COMMAND --help` and `help TOPIC` print, from the tables of commands and of settings."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from mnist_cnn.cli.catalog import COMMANDS, FLAGS, TAKE_RUN
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line, did_you_mean, program
from mnist_cnn.terminal.output import styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnist_cnn.cli.command import Command
    from mnist_cnn.settings import Section

COLUMN = 23
"""Width of the first of two columns."""
ALL, RUN = "settings", "run"
TOPICS = (ALL, RUN, "data", "model", "train", "backend", "register", "track", "search")
"""What `help` takes besides commands and keys: all settings, those without a group, and groups."""

OVERVIEW = """\
Usage: {program} [COMMAND] [RUN] [KEY=VALUE ...]
  Train a convolutional network on MNIST-like images, here or on a cluster.

Commands (RUN is a run's name, its beginning or end, a folder, or `latest`)
{commands}

Flags
{flags}

Help
  COMMAND --help        a command, its flags and examples
  help settings         every setting in a line
  help train            the settings of a group: {groups}
  help train.epochs     one setting

Exit codes
  0 done  1 a bug  2 configuration  3 data  4 backend or disk  5 training failed
  6 run cancelled  7 run paused  130 interrupted or detached

Examples
  {program} backend=local
  {program} train.epochs=3 data.train_limit=10000 seed=1
  {program} --multirun train.learning_rate=0.5,1.0
  {program} predict latest digit.png"""

COMMAND = """\
Usage: {program} {name} {words}[KEY=VALUE ...]
  {meaning}

Flags
{flags}

Examples
{examples}

{settings}"""


def show(command: Command) -> int:
    """Print the help on a command, a group of settings, or a setting."""
    words = (*command.words, *command.overrides)
    if len(words) > 1:
        hint = f"for example {command_line('help', 'train')}"
        raise ConfigurationError(f"help takes one topic, not {' '.join(words)}", hint)
    print_help(_topic(words[0]) if words else overview())
    return 0


def print_help(text: str) -> None:
    """Print a text, wrapped to the terminal's width; its headings have a colour on a terminal."""
    width = shutil.get_terminal_size().columns
    for line in text.splitlines():
        wrapped = _wrapped(line, width)
        print(styled(wrapped, "bold cyan", sys.stdout) if line[:1].isalpha() else wrapped)


def overview() -> str:
    """Return what `--help` prints."""
    rows = [(f"{name} {entry.words}", entry.meaning) for name, entry in COMMANDS.items()]
    groups = ", ".join(topic for topic in TOPICS if topic != ALL)
    return OVERVIEW.format(program=program(), commands=_rows(rows), flags=_rows(FLAGS.items()), groups=groups)


def of_command(name: str) -> str:
    """Return what `COMMAND --help` prints."""
    if name == "help":
        return overview()
    entry = COMMANDS[name]
    common = ["--config-dir FOLDER", "--json"]
    common += ["--multirun", "--cfg job"] if name in ("train", "plan") else []
    flags = {**entry.flags, **{flag: ("", FLAGS[flag]) for flag in common}}
    run = "RUN is a run's name, its beginning or end, a folder, or `latest`. " if name in TAKE_RUN else ""
    return COMMAND.format(
        program=program(),
        name=name,
        words=f"{entry.words} " if entry.words else "",
        meaning=entry.meaning,
        flags=_rows((f"{flag} {value}", meaning) for flag, (value, meaning) in flags.items()),
        examples="\n".join(f"  {command_line(name)} {example}".rstrip() for example in entry.examples),
        settings=f"{run}The settings KEY=VALUE: {command_line('help', ALL)}",
    )


def _topic(word: str) -> str:
    if not word.startswith("backend="):
        word = word.partition("=")[0]
    sections = _sections(word)
    if word == ALL:
        return "\n\n".join(_in_lines(group, section) for group, section in sections.items())
    wanted = [group for group in sections if group in (word, f"backend={word}")]
    if word == "backend":
        wanted = [group for group in sections if group.startswith("backend=")]
    if wanted:
        return "\n\n".join(_described(group, sections[group]) for group in wanted)
    if word in COMMANDS:
        return of_command(word)
    keys = [(key, group, text) for group, section in sections.items() for key, text in _keys(group, section)]
    if found := [f"{_heading(group)}\n{text}" for key, group, text in keys if key == word]:
        return "\n\n".join(found)
    known = [*TOPICS, *COMMANDS, *(key for key, _, _ in keys)]
    hint = did_you_mean(word, known, f"the topics are {', '.join(TOPICS)}, and commands")
    raise ConfigurationError(f"no help on {word}", hint)


def _sections(word: str) -> dict[str, type[Section]]:
    """Return the sections by the name of their group; each backend has its own.

    Includes a backend from outside that the word `backend=NAME` chooses.
    """
    from mnist_cnn import compose
    from mnist_cnn.backends import BACKENDS, backend_class
    from mnist_cnn.config import SearchConfig

    own: tuple[type[Section], ...] = (*compose.SECTIONS, SearchConfig)
    sections = {section.GROUP or RUN: section for section in own}
    names = [*BACKENDS, *([word.removeprefix("backend=")] if word.startswith("backend=") else ())]
    return sections | {f"backend={name}": backend_class(name).CONFIG for name in names}


def _described(group: str, section: type[Section]) -> str:
    """Describe each setting of a group: its default, meaning, allowed values and unit."""
    from mnist_cnn import compose
    from mnist_cnn.backends import installed

    lines = [_heading(group)]
    if section.GROUP in (*compose.GROUPS, compose.SEARCH):
        registered = sorted(installed()) if section.GROUP == "backend" else ()
        names = ", ".join([*compose.options(section.GROUP), *registered])
        lines.append(f"  {section.GROUP}=NAME, one of: {names}")
        if section.GROUP == "backend":
            lines.append("  Any other backend is chosen with backend=FILE.py:Class.")
    return "\n".join([*lines, *(text for _, text in _keys(group, section))])


def _keys(group: str, section: type[Section]) -> Iterator[tuple[str, str]]:
    """Yield each full key of a section and of those within it, and its description."""
    from mnist_cnn.settings import allowed, with_inner

    for each in with_inner(section):
        for key, default, name, spec in _settings(group, each):
            unit = f", in {spec.unit}" if spec.unit else ""
            yield key, f"  {key}={default}\n      {spec.meaning}; {allowed(each, name)}{unit}"


def _in_lines(group: str, section: type[Section]) -> str:
    """Describe a group with a line for each setting."""
    from mnist_cnn.settings import with_inner

    rows = [
        (f"{key}={default}", spec.meaning)
        for each in with_inner(section)
        for key, default, _, spec in _settings(group, each)
    ]
    return f"{_heading(group)}\n{_rows(rows)}"


def _settings(group: str, section: type[Section]) -> Iterator[tuple[str, str, str, Any]]:
    """Yield each setting's full key, default as text, name and `Setting`."""
    from mnist_cnn import compose
    from mnist_cnn.settings import full_key, value_keys, written

    defaults = compose.default_values(group)
    for name, spec in value_keys(section):
        fields = {field.name: field for field in dataclasses.fields(section)}
        yield full_key(section, name), written(defaults.get(name, fields[name].default)), name, spec


def _heading(group: str) -> str:
    return group[:1].upper() + group[1:]


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    """Return lines of two columns; a long left column has a line of its own."""
    wide = "\n" + " " * (COLUMN + 2)
    return "\n".join(
        f"  {left.strip():<{COLUMN}}" + (wide if len(left.strip()) > COLUMN - 2 else "") + right
        for left, right in rows
    )


def _wrapped(line: str, width: int) -> str:
    """Wrap a line between words; further lines begin below its second column, or below its first word."""
    start = re.match(r" *(?:\S+(?: \S+)* {2,})?", line)
    indent = " " * (start.end() if start else 0)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
