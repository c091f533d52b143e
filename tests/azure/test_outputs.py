"""What a run on the cluster leaves, brought here and checked. Needs no service and no SDK."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import log, outputs
from mnist_cnn.errors import BackendError, TrainingError


class FakeRun:
    """A completed run whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_file_names(self) -> list[str]:
        return [f"outputs/{path.name}" for path in self.folder.iterdir() if path.is_file()]

    def get_metrics(self) -> dict[str, float]:
        return {}

    def download_file(self, name: str, output_file_path: str) -> None:
        Path(output_file_path).write_bytes((self.folder / Path(name).name).read_bytes())


@pytest.fixture
def brought(tmp_path: Path, small_run: Path) -> tuple[Path, Path]:
    """What the service has of a run, and the run folder that it is to be brought to."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    for file in small_run.iterdir():
        if file.is_file():
            (there / file.name).write_bytes(file.read_bytes())
    (here / "run.json").write_bytes((small_run / "run.json").read_bytes())
    return there, here


def test_a_sound_result_is_brought_here_with_its_files(brought: tuple[Path, Path]) -> None:
    there, here = brought
    outputs.download(FakeRun(there), here)
    result = run_folder.read_result(here)
    assert result is not None
    run_folder.verify(here, result)
    assert not list(here.glob(".downloading-*"))


def test_a_completed_run_without_a_result_is_no_success(brought: tuple[Path, Path]) -> None:
    there, here = brought
    (there / "result.json").unlink()
    with pytest.raises(outputs.ResultMissing, match=r"has no result\.json"):
        outputs.download(FakeRun(there), here)


def test_a_result_of_another_job_is_refused(brought: tuple[Path, Path]) -> None:
    there, here = brought
    receipt = json.loads((here / "run.json").read_text())
    (here / "run.json").write_text(json.dumps(receipt | {"job_digest": "0" * 64}))
    with pytest.raises(outputs.ResultMissing, match="belongs to another job"):
        outputs.download(FakeRun(there), here)


@pytest.mark.parametrize("name", ["../../evil.py", "run.json", "model.onnx"])
def test_a_result_that_names_what_is_not_its_own_brings_nothing(
    brought: tuple[Path, Path], name: str
) -> None:
    there, here = brought
    result = json.loads((there / "result.json").read_text())
    result["files"][name] = result["files"]["model.keras"]
    (there / "result.json").write_text(json.dumps(result))
    with pytest.raises(BackendError):
        outputs.download(FakeRun(there), here)
    assert [path.name for path in here.iterdir()] == ["run.json"]


def test_a_damaged_file_is_not_brought(brought: tuple[Path, Path]) -> None:
    there, here = brought
    (there / "model.keras").write_bytes((there / "model.keras").read_bytes()[:-1])
    with pytest.raises(BackendError, match=r"model\.keras is not the file"):
        outputs.download(FakeRun(there), here)
    assert [path.name for path in here.iterdir()] == ["run.json"]


def test_a_result_that_the_disk_here_does_not_take_can_be_brought_later(brought: tuple[Path, Path]) -> None:
    there, here = brought
    (here / "model.keras").mkdir()
    with pytest.raises(BackendError, match=r"cannot write .*model\.keras: Is a directory") as refused:
        outputs.download(FakeRun(there), here)
    assert refused.value.hint.endswith(f"then download the result: follow {here}")
    assert not (here / "result.json").exists()
    (here / "model.keras").rmdir()
    outputs.download(FakeRun(there), here)
    assert (here / "result.json").is_file()


def test_a_failure_is_read_from_the_log_of_the_last_start_only(tmp_path: Path) -> None:
    told = json.dumps({"exit_code": 5, "error": "the loss became nan", "hint": "lower it"})
    (tmp_path / "log.txt").write_text(f"x\nmnist_cnn failure {told}\n")
    error = log.failure(tmp_path)
    assert isinstance(error, TrainingError)
    assert (error.message, error.hint) == ("the loss became nan", "lower it")
    log.mark_restart(tmp_path)
    assert log.failure(tmp_path) is None
