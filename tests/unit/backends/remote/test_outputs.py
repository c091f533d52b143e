"""A node's files are accepted if they are this job's result, and none that the run folder has already."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from helpers.records import write_receipt, write_result
from helpers.sdk_fakes import config_of

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure.v1.service import WorkspaceService
from mnist_cnn.backends.remote import outputs
from mnist_cnn.backends.remote.service import Handle
from mnist_cnn.result import Result, describe_content


@dataclasses.dataclass
class NodeRun:
    """Stands for the SDK's run; its outputs are the files of a folder."""

    outputs: Path
    id: str = "id"

    def get_file_names(self) -> list[str]:
        return ["user_logs/std_log.txt", *(f"outputs/{path.name}" for path in self.outputs.iterdir())]

    def get_metrics(self) -> dict[str, float]:
        return {}


class FolderService(WorkspaceService):
    """Copies the files of a node's folder instead of downloading them."""

    def download(self, handle: Handle, name: str, target: Path, seconds: float) -> None:  # noqa: ARG002
        shutil.copyfile(self._run.outputs / name, target)


@pytest.fixture
def node(tmp_path: Path) -> NodeRun:
    write_result(tmp_path / "outputs")
    (tmp_path / "outputs" / "run.json").unlink()
    return NodeRun(tmp_path / "outputs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_receipt(tmp_path / "run", Status.running)
    return tmp_path / "run"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def download(node: NodeRun, folder: Path) -> None:
    service = FolderService(config_of())
    service._run = node  # noqa: SLF001 - so that it is not searched
    outputs.download(service, Handle(folder, node.id, {}))


def change(node: NodeRun, **values: object) -> None:
    path = node.outputs / "result.json"
    changed = dataclasses.replace(Result.from_json(path.read_text()), **values)  # type: ignore[arg-type]
    path.write_text(changed.to_json())


def test_all_files_are_listed_and_the_outputs_downloaded(
    node: NodeRun, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(node, folder)
    (listed,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("files: ")]
    assert listed.endswith("outputs/result.json, user_logs/std_log.txt")
    assert names(folder) == ["model.keras", "model.onnx", "result.json", "run.json"]
    run_folder.verify(folder, run_folder.result_of(folder))


@pytest.mark.parametrize("name", ["job.json", "run.json", "log.txt"])
def test_a_file_that_the_run_folder_has_already_is_not_accepted(
    node: NodeRun, folder: Path, name: str
) -> None:
    (node.outputs / name).write_text("from the node")
    change(node, files={name: describe_content(b"from the node")})
    with pytest.raises(outputs.ResultMissing, match=f"names the file {name}, which a training never writes"):
        download(node, folder)
    assert names(folder) == ["run.json"]


def test_a_result_of_another_job_is_not_accepted(node: NodeRun, folder: Path) -> None:
    change(node, job_digest="another")
    with pytest.raises(outputs.ResultMissing, match="belongs to another job"):
        download(node, folder)
    assert names(folder) == ["run.json"]


def test_a_file_that_was_damaged_on_the_way_is_not_accepted(node: NodeRun, folder: Path) -> None:
    (node.outputs / "model.onnx").write_bytes(b"model.onnq")
    with pytest.raises(outputs.ResultDamaged) as raised:
        download(node, folder)
    assert raised.value.message.startswith(f"{folder / 'model.onnx'} is not the file")
    assert names(folder) == ["run.json"]


def test_a_result_that_was_damaged_on_the_way_can_be_downloaded_again(node: NodeRun, folder: Path) -> None:
    path = node.outputs / "result.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(outputs.ResultDamaged) as raised:
        download(node, folder)
    assert raised.value.message.startswith(f"{folder / 'result.json'} is not a result")
    assert "download it again" in raised.value.hint
    assert names(folder) == ["run.json"]
