"""Fixtures that run commands in the test's own process, where the local backend starts no training."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.processes import Ended

from mnist_cnn.backends.local import LocalBackend
from mnist_cnn.cli.main import main

Ask = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def ask(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A function that runs a command in this process; `home` is the current folder."""
    assert home.is_dir()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(LocalBackend, "submit", lambda *_: pytest.fail("a training was started"))
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def completed_run(small_run: Path) -> Iterator[Path]:
    """The completed small run, none of whose files a test may change."""
    before = _tree(small_run)
    yield small_run
    assert _tree(small_run) == before


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def refusal(ended: Ended, code: int = 2) -> tuple[str, str]:
    """Check that a command ended with a message and a hint, one line each; return both."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    message, hint = ended.err.splitlines()
    assert message.startswith("error: ")
    assert hint
    return message.removeprefix("error: "), hint
