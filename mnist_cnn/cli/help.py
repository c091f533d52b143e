"""The text of --help, generated from the configuration schema."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from mnist_cnn import compose
from mnist_cnn.backends import BACKENDS, backend_class, installed
from mnist_cnn.cli.command import COMMANDS
from mnist_cnn.config import SearchConfig
from mnist_cnn.settings import allowed, full_key, sections_within, value_keys, written
from mnist_cnn.terminal.output import styled

if TYPE_CHECKING:
    from mnist_cnn.settings import Section

PURPOSE = "  Train a convolutional network on MNIST-like images, here or on a cluster."

FLAGS = """\
  -m, --multirun        run every combination of the values in KEY=A,B
  --config-dir FOLDER   add options for the groups from a folder like conf/
  --json                print the result as JSON, and progress on stderr
  --cfg job             print the whole configuration as YAML
  --info                print how Hydra composes the configuration
  --shell-completion    complete commands, runs and settings with the Tab key:
      eval "$({program} --shell-completion install=bash)"
  --version             print the version"""

EXIT_CODES = """\
  0 done  1 a bug  2 configuration  3 data  4 backend or disk  5 training failed
  6 run cancelled  7 run paused  130 interrupted or detached"""

EXAMPLES = """\
  {program} backend=local
  {program} train.epochs=3 data.train_limit=10000 seed=1
  {program} --multirun train.learning_rate=0.5,1.0
  {program} predict latest digit.png"""


def print_help(program: str, stream: TextIO) -> None:
    """Print the help, wrapped to the terminal's width.

    Headings are coloured on a terminal.
    """
    width = shutil.get_terminal_size().columns
    for line in help_text(program).splitlines():
        wrapped = _wrapped(line, width)
        is_heading = line[:1].isalpha()
        stream.write((styled(wrapped, "bold cyan", stream) if is_heading else wrapped) + "\n")


def help_text(program: str) -> str:
    """Return the help text.

    Each key has its meaning, allowed values and default.
    """
    defaults = compose.compose(())
    sections: tuple[type[Section], ...] = (*compose.SECTIONS, SearchConfig)
    parts = [
        f"Usage: {program} [COMMAND] [RUN] [KEY=VALUE ...]\n{PURPOSE}",
        f"Commands (RUN is a run's name, its beginning or end, a folder, or `latest`)\n{command_lines()}",
        *(_describe(section.GROUP or "the run", section, defaults) for section in sections),
        *(_describe(f"backend={name}", backend_class(name).CONFIG, defaults) for name in BACKENDS),
        "  Any other backend is chosen with backend=FILE.py:Class; its CONFIG class defines its keys.",
        f"Flags\n{FLAGS.format(program=program)}",
        f"Exit codes\n{EXIT_CODES}",
        f"Examples\n{EXAMPLES.format(program=program)}",
    ]
    return "\n\n".join(parts)


def command_lines() -> str:
    """Return a line for each command and flag.

    Leaves out the flags that every command takes.
    """
    lines = []
    for name, entry in COMMANDS.items():
        lines.append(f"  {f'{name} {entry.words}':<21} {entry.meaning}")
        for flag, (value, meaning) in entry.flags.items():
            lines.append(f"    {f'{flag} {value}':<20} {meaning}")
    return "\n".join(lines)


def _wrapped(line: str, width: int) -> str:
    """Wrap a line between words.

    Further lines begin below its description, or below its first word.
    """
    start = re.match(r" *(?:\S+(?: \S+)* {2,})?", line)
    indent = " " * (start.end() if start else 0)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _describe(title: str, section: type[Section], defaults: dict[str, Any]) -> str:
    values = defaults.get(section.GROUP, {}) if section.GROUP else defaults
    lines = [title[:1].upper() + title[1:]]
    if section.GROUP in (*compose.GROUPS, compose.SEARCH):
        registered = installed() if section.GROUP == "backend" else {}
        choices = ", ".join([*compose.options(section.GROUP), *sorted(registered)])
        lines.append(f"  {section.GROUP}=NAME, one of: {choices}")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name, spec in value_keys(section):
        default = values.get(name, fields[name].default)
        unit = f", in {spec.unit}" if spec.unit else ""
        lines.append(f"  {full_key(section, name)}={written(default)}")
        lines.append(f"      {spec.meaning}; {allowed(section, name)}{unit}")
    for inner in sections_within(section):
        lines += _describe("", inner, {}).splitlines()[1:]
    return "\n".join(lines)
