"""A completed run with pictures, which no training made."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from helpers.processes import result_of
from PIL import Image

from mnist_cnn import run_folder
from mnist_cnn.result import describe_content

OLD_RUNS = Path(__file__).parents[2] / "data" / "runs-of-schema-1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a completed run with two pictures and no plots."""
    folder = tmp_path / "run"
    shutil.copytree(OLD_RUNS / "completed", folder)
    result = result_of(folder)
    files = dict(result.files)
    for name in ("confusion.png", "mistakes.png"):
        Image.new("L", (8, 8)).save(folder / name)
        files[name] = describe_content((folder / name).read_bytes())
    (folder / run_folder.RESULT).write_text(dataclasses.replace(result, files=files).to_json())
    return folder
