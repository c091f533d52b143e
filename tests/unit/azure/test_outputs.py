"""Which files of a node are accepted. The SDK's run is a stand-in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.records import write_receipt, write_result

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import outputs
from mnist_cnn.result import describe_content

if TYPE_CHECKING:
    from mnist_cnn.result import Result


class Outputs:
    """A run's files, as the SDK lists and downloads them."""

    def __init__(self, folder: Path, result: Result) -> None:
        self.folder = folder
        (folder / run_folder.RESULT).write_text(result.to_json())

    def get_file_names(self) -> list[str]:
        return ["user_logs/std_log.txt", *(f"outputs/{path.name}" for path in self.folder.iterdir())]

    def get_metrics(self) -> dict[str, float]:
        return {}

    def download_file(self, name: str, output_file_path: str) -> None:
        Path(output_file_path).write_bytes((self.folder / name.removeprefix("outputs/")).read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder whose job has the digest of the result."""
    write_receipt(tmp_path / "run", Status.finalizing, backend="azure")
    for name in (run_folder.JOB, run_folder.LOG):
        (tmp_path / "run" / name).write_text("ours")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["job.json", "run.json", "log.txt"])
def test_what_the_run_folder_writes_itself_is_not_accepted_from_a_node(
    folder: Path, tmp_path: Path, name: str
) -> None:
    result = write_result(tmp_path / "node")
    (tmp_path / "node" / name).write_text("theirs")
    result = dataclasses.replace(result, files=result.files | {name: describe_content(b"theirs")})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(outputs.ResultMissing, match=f"names the file {name}"):
        outputs.download(Outputs(tmp_path / "node", result), folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {file: after[file] for file in before} == before
    assert run_folder.RESULT not in after


def test_all_files_of_a_run_are_listed_and_its_outputs_downloaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = write_result(tmp_path / "node")
    outputs.download(Outputs(tmp_path / "node", result), folder)
    run_folder.verify(folder, result)
    (listed,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("files: ")]
    assert listed.endswith("outputs/result.json, outputs/run.json, user_logs/std_log.txt")
    assert (folder / run_folder.LOG).read_text() == "ours"
