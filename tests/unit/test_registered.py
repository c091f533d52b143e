"""What the folder of a registered model is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import registered

if TYPE_CHECKING:
    import pytest


def test_a_version_has_the_name_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.json").touch()
    monkeypatch.chdir(version)
    assert registered.name_of(version) == registered.name_of(Path()) == "m/1"


def test_a_run_and_a_file_have_their_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "2"
    run.mkdir()
    monkeypatch.chdir(run)
    assert registered.name_of(Path()) == "2"
    assert registered.name_of(run / "model.onnx") == "model.onnx"
