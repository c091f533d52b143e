"""What all tests share: the command as a real process, and one small run, trained once."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = ("data.train_limit=1000", "data.test_limit=500", "train.epochs=2", "train.batch_size=25")
"""Overrides of a job on real images that takes seconds and still learns."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: str) -> list[str]:
    """The command line of `python -m mnist_cnn`, with the package that is installed, not a checkout."""
    return [sys.executable, "-P", "-m", "mnist_cnn", *arguments]


def run_command(*arguments: str, cwd: Path, timeout: float = 180, **environment: str) -> Ended:
    """Run `python -m mnist_cnn ARGUMENTS` in a folder, to its end."""
    ended = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a completed small run; tests read it and change nothing in it."""
    home = tmp_path_factory.mktemp("small")
    ended = run_command(*SMALL, "run_dir=run", "save_h5=true", cwd=home)
    assert ended.code == 0, ended.out + ended.err
    return home / "run"
