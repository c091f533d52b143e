"""Help, version, the printed configuration, and parsing."""

from __future__ import annotations

import dataclasses
import re
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
from mnist_cnn.cli.command import COMMANDS
from mnist_cnn.cli.main import parse
from mnist_cnn.config import SearchConfig
from mnist_cnn.settings import Section, allowed, full_key, value_keys, with_inner, written

if TYPE_CHECKING:
    from helpers.cli import Ask

SECTIONS = [*with_inner(*compose.SECTIONS, SearchConfig, LocalConfig)]


@pytest.mark.parametrize("section", SECTIONS)
def test_help_names_every_key_with_meaning_and_default(ask: Ask, section: type[Section]) -> None:
    words = " ".join(ask("--help").out.split())
    for name, spec in value_keys(section):
        unit = f", in {spec.unit}" if spec.unit else ""
        key = f" {full_key(section, name)}={written(getattr(section(), name))} "
        assert f"{key}{spec.meaning}; {allowed(section, name)}{unit} " in words


def test_help_names_every_option_command_flag_and_exit_code(ask: Ask) -> None:
    text = ask("-h").out
    assert text == ask("plan", "--help").out == ask("--hydra-help").out
    for group in ("data", "model", "train", "track", "search"):
        assert f"  {group}=NAME, one of: {', '.join(compose.options(group))}\n" in text
    for name, entry in COMMANDS.items():
        assert re.search(
            rf"^  {name} .* {re.escape(entry.meaning)}$", help_page.command_lines(), re.MULTILINE
        )
    flags = help_page.FLAGS.format(program="python -m mnist_cnn")
    assert all(part in text for part in (help_page.command_lines(), flags, help_page.EXIT_CODES))


@pytest.mark.parametrize("width", [80, 24])
def test_help_fits_the_terminal_and_breaks_no_word(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = ask("--help").out
    assert text.split() == help_page.help_text("python -m mnist_cnn").split()
    assert not [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1]


def test_the_headings_of_help_have_a_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    help_page.print_help("mnist-cnn", terminal)
    lines = terminal.getvalue().splitlines()
    headings = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines if "\x1b" in line]
    assert headings[0].startswith("Usage: mnist-cnn ")
    assert {"Data", "Train", "Backend=azure", "Flags", "Exit codes", "Examples"} < set(headings)
    assert not [heading for heading in headings if heading.startswith(" ")]


def test_the_examples_of_help_are_accepted(ask: Ask) -> None:
    examples = ask("--help").out.partition("Examples\n")[2].splitlines()
    assert len(examples) == 4
    for example in examples:
        command = parse(example.split("mnist_cnn ")[1].split())
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
