"""Help, version, the printed configuration, and parsing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import Ended
from omegaconf import OmegaConf

import mnist_cnn
from mnist_cnn import compose
from mnist_cnn.backends.local import LocalConfig
from mnist_cnn.cli import commands
from mnist_cnn.cli import help as help_page
from mnist_cnn.cli.main import parse
from mnist_cnn.config import Section, allowed, full_key, keys_of, written

if TYPE_CHECKING:
    from helpers.cli import Ask

SECTIONS: tuple[type[Section], ...] = (*compose.SECTIONS, LocalConfig)


@pytest.mark.parametrize("section", SECTIONS)
def test_help_names_every_key_with_meaning_and_default(ask: Ask, section: type[Section]) -> None:
    text = ask("--help").out
    for name, spec in keys_of(section):
        unit = f", in {spec.unit}" if spec.unit else ""
        entry = (
            f"\n  {full_key(section, name)}={written(getattr(section(), name))}\n"
            f"      {spec.meaning}; {allowed(section, name)}{unit}\n"
        )
        assert spec.group or entry in text


def test_help_names_every_option_command_flag_and_exit_code(ask: Ask) -> None:
    text = ask("-h").out
    assert text == ask("plan", "--help").out
    for group in ("data", "model", "train"):
        assert f"  {group}=NAME, one of: {', '.join(compose.options(group))}\n" in text
    for name in commands.COMMANDS:
        assert re.search(rf"^  {name} ", help_page.COMMAND_LINES, re.MULTILINE)
    assert all(part in text for part in (help_page.COMMAND_LINES, help_page.FLAGS, help_page.EXIT_CODES))


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
    expected = ("status", ("latest", "./k=v"), ("a=b/c",), ("x", "y"), True, True)
    assert dataclasses.astuple(command) == expected
    with pytest.raises(dataclasses.FrozenInstanceError):
        command.name = "list"  # type: ignore[misc]
