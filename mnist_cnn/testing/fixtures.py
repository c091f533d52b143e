"""Fixtures and helpers that the contracts share."""

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
"""More epochs than any test waits for.

The run is still training when it is cancelled.
"""


def printed_by(code: str, *arguments: str) -> str:
    """Return what Python prints when it runs this code."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


class Contract:
    """The overrides of a backend and a job.

    `submit` submits that job.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> tuple[str, ...]:
        """Return the overrides that set up the backend."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        """Return the overrides of a small job.

        It trains in seconds, for two epochs or more.
        """
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("contract")

    @pytest.fixture(scope="class")
    @classmethod
    def submit(cls, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]) -> Submit:
        """Return a function that submits the small job.

        Its argument is the run folder's name.
        """

        def submit(name: str, *more: str) -> Run:
            folders = (f"run_dir={home / name}", f"register.dir={home / 'models'}")
            return launch.submit(*overrides, *small_job, *more, *folders)

        return submit
