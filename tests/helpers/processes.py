"""The command as a real process, and the overrides of a small job on real images."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SMALL = ("data.train_limit=1000", "data.test_limit=500", "train.epochs=2", "train.batch_size=25")
"""Overrides of a job on real images that takes seconds and still learns."""
TINY = (
    "data.train_limit=200",
    "data.test_limit=100",
    "train.epochs=1",
    "train.batch_size=25",
    "train.optimizer=sgd",
    "model.filters=[4,4]",
    "model.dense_units=8",
)
"""Overrides of a job that learns next to nothing and leaves small files."""


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


def hear_interrupts() -> None:
    """Undo that whoever runs the tests in the background has SIGINT ignored, which a process inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
