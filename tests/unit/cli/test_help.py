"""Help, version, the printed configuration, and parsing."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import Ended
from helpers.terminals import Terminal
from omegaconf import OmegaConf

import mnist_cnn
from mnist_cnn import compose
from mnist_cnn.backends.local import LocalConfig
from mnist_cnn.cli import help as help_page
from mnist_cnn.cli.catalog import COMMANDS
from mnist_cnn.cli.main import parse
from mnist_cnn.config import SearchConfig
from mnist_cnn.settings import Section, allowed, full_key, value_keys, with_inner, written

if TYPE_CHECKING:
    from helpers.cli import Ask

SECTIONS = [*with_inner(*compose.SECTIONS, SearchConfig, LocalConfig)]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_explained_in_its_group_and_by_itself(ask: Ask, section: type[Section]) -> None:
    group = " ".join(ask("help", section.GROUP.partition(".")[0] or "run").out.split())
    every = " ".join(ask("help", "settings").out.split())
    for name, spec in value_keys(section):
        unit = f", in {spec.unit}" if spec.unit else ""
        key = f"{full_key(section, name)}={written(getattr(section(), name))} "
        explained = f"{key}{spec.meaning}; {allowed(section, name)}{unit}"
        assert explained in group
        assert explained in " ".join(ask("help", full_key(section, name)).out.split())
        assert f"{key}{spec.meaning}" in every


def test_a_group_names_its_options(ask: Ask) -> None:
    for group in ("data", "model", "train", "track", "search"):
        assert f"  {group}=NAME, one of: {', '.join(compose.options(group))}\n" in ask("help", group).out
    assert "  backend.vm_size=" in ask("help", "azure").out
    assert ask("help", "azure").out == ask("help", "backend=azure").out
    assert ask("help", "train").out == ask("help", "train=quick").out


def test_the_overview_names_every_command_and_where_the_settings_are(ask: Ask) -> None:
    text = ask("--help").out
    assert text == ask("-h").out == ask("help").out
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} .* {re.escape(entry.meaning)}$", text, re.MULTILINE)
    assert "help settings" in text
    assert len(text.splitlines()) <= 50


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "help"])
def test_the_help_of_a_command_has_its_flags_and_fits_a_screen(ask: Ask, name: str) -> None:
    text = ask(name, "--help").out
    assert text.startswith(f"Usage: python -m mnist_cnn {name} ")
    for flag, (value, meaning) in COMMANDS[name].flags.items():
        assert f"  {f'{flag} {value}'.strip()} {meaning}" in re.sub(" {2,}", " ", text).replace("\n ", "\n  ")
    assert len(text.splitlines()) <= 24
    if name not in help_page.TOPICS:
        assert ask("help", name).out == text


@pytest.mark.parametrize("topic", ["", "settings", "train"])
@pytest.mark.parametrize("width", [80, 24])
def test_help_fits_the_terminal_and_breaks_no_word(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, width: int, topic: str
) -> None:
    words = ("help", *topic.split())
    monkeypatch.setenv("COLUMNS", "1000")
    whole = ask(*words).out.split()
    monkeypatch.setenv("COLUMNS", str(width))
    text = ask(*words).out
    assert text.split() == whole
    assert not [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1]


def test_the_headings_of_help_have_a_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    help_page.print_help(help_page.overview())
    lines = terminal.getvalue().splitlines()
    headings = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines if "\x1b" in line]
    assert headings[0].startswith("Usage: ")
    assert {"Flags", "Exit codes", "Examples"} < set(headings)
    assert not [heading for heading in headings if heading.startswith(" ")]


EXAMPLES = [f"{name} {example}" for name, entry in COMMANDS.items() for example in entry.examples]
EXAMPLES += [
    line.split("{program} ")[1] for line in help_page.OVERVIEW.partition("Examples\n")[2].splitlines()
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_help_are_accepted(ask: Ask, example: str) -> None:
    command = parse(shlex.split(example))
    if not command.is_multirun and command.name == "train":
        assert ask("plan", *command.overrides).code == 0


def test_version_prints_the_packages_version(ask: Ask) -> None:
    assert ask("--version") == Ended(0, f"mnist_cnn {mnist_cnn.__version__}\n", "")


def test_cfg_job_prints_the_configuration_and_writes_nothing(ask: Ask, home: Path) -> None:
    ended = ask("--cfg", "job", "train.epochs=3")
    assert ended.code == 0, ended.err
    shown = OmegaConf.create(ended.out)
    assert shown.train.epochs == 3
    assert shown.model.filters == [32, 64]
    assert list(home.iterdir()) == []


def test_a_parsed_command_is_frozen() -> None:
    command = parse(["status", "a=b/c", "latest", "--json", "-m", "--config-dir=x", "-cd", "y", "./k=v"])
    assert dataclasses.astuple(command) == (
        "status",
        ("latest", "./k=v"),
        ("a=b/c",),
        ("x", "y"),
        True,
        True,
        {},
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        command.name = "list"  # type: ignore[misc]
