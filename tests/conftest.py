"""What all tests share: one small run, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import SMALL, Ended, command, run_command

__all__ = ["SMALL", "Ended", "command", "run_command"]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a completed small run; tests read it and change nothing in it."""
    home = tmp_path_factory.mktemp("small")
    ended = run_command(*SMALL, "run_dir=run", "save_h5=true", cwd=home)
    assert ended.code == 0, ended.out + ended.err
    return home / "run"
