"""Every command, code block and link in the documentation works."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from mnist_cnn import compose
from mnist_cnn.cli import filters
from mnist_cnn.cli.catalog import COMMANDS
from mnist_cnn.cli.main import parse
from mnist_cnn.launch import make_job
from mnist_cnn.result import EpochRow, Progress
from mnist_cnn.search import ranges
from mnist_cnn.terminal.log_stream import describe_progress
from mnist_cnn.training.train import describe_epoch

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}

CODE = [block for text in TEXTS.values() for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)]
LINES = sorted(
    {line.partition("  #")[0].strip() for block in CODE for line in block.replace("&&", "\n").splitlines()}
)
# Those that need a file of the page are run by tests/integration/test_extending.py.
COMMAND_LINES = [
    line
    for line in LINES
    if line.startswith("python -m mnist_cnn") and not re.search(r"\.py\b|my_conf|--help", line)
]
WITH_WORDS = [name for name, entry in COMMANDS.items() if entry.words and name != "help"]
BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL), 1)
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_is_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)[3:]
    command = parse(arguments)
    if command.name == "help":
        return
    assert bool(command.words) == (arguments[0] in WITH_WORDS)
    if command.name == "list":
        filters.parse(command.overrides)
        return
    if command.name == "search":
        fixed, found = ranges.split(command.overrides)
        own = [text for text in fixed if text.startswith("search")]
        compose.load_search(own)
        compose.load([*(text for text in fixed if text not in own), *(each.ends()[0] for each in found)])
        return
    for overrides in compose.expand(command.overrides):
        compose.load(overrides)


def test_readme_shows_an_epoch_as_the_trainer_prints_it() -> None:
    row = EpochRow(1, 0.2559, 0.9219, 0.0559, 0.9811, learning_rate=1.0, seconds=60.0)
    printed, _, _ = describe_epoch(row, make_job()).rpartition("  ")
    assert f"\n{printed}  ...\n" in TEXTS["README.md"]
    progress = Progress("running", 2, 12, 240, 469, loss=0.0912, accuracy=0.9731)
    assert f" {describe_progress(progress).split(' 0 images')[0]} ..." in TEXTS["README.md"]


@pytest.mark.parametrize("page", TEXTS)
def test_percentages_are_written_as_the_program_writes_them(page: str) -> None:
    assert re.findall(r"\d %", TEXTS[page]) == []


@pytest.mark.parametrize("block", BLOCKS)
def test_every_code_block_is_python(block: str) -> None:
    ast.parse(block)


def test_the_pages_show_commands_and_code() -> None:
    assert len(COMMAND_LINES) > 20
    assert BLOCKS


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_and_every_named_module_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXTS[page])
    files = [(ROOT / page).parent / link for link in links if not link.startswith("http")]
    modules = re.findall(r"python -m (tests\.[a-z_.]+)", TEXTS[page])
    files += [ROOT / name.replace(".", "/") / "__main__.py" for name in modules]
    assert not [file for file in files if not file.exists()]
