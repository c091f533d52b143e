"""What the contracts share: the fixtures that submit a small job, and a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnist_cnn import launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.backend import Run

    Submit = Callable[..., Run]

LONG = "train.epochs=10000"
"""More epochs than any test waits for: the run is still training when it is cancelled."""


def printed_by(code: str, *arguments: str) -> str:
    """Return what a Python process prints that runs this code."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


class Contract:
    """The overrides of a backend and of a job, and a function that submits it."""

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> tuple[str, ...]:
        """Return the overrides that choose and set up the backend."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        """Return the overrides of a job that trains in seconds, for two epochs or more."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("contract")

    @pytest.fixture(scope="class")
    @classmethod
    def submit(cls, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]) -> Submit:
        """Return a function that submits the small job into a folder of this name."""

        def submit(name: str, *more: str) -> Run:
            folders = (f"run_dir={home / name}", f"register.dir={home / 'models'}")
            return launch.submit(*overrides, *small_job, *more, *folders)

        return submit
