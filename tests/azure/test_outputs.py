"""The outputs of a completed run are downloaded and checked: from the blob store, by the real SDK."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import SDK_TESTS, calls, chosen, refused, succeeded, train
from helpers.azure_runs import ORIGIN, ServiceRun, completed_run
from helpers.processes import result_of
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService
    from loopback.messages import Request

pytestmark = SDK_TESTS


@pytest.fixture
def made(azure: AzureService, small_run: Path, tmp_path: Path) -> ServiceRun:
    return completed_run(azure, tmp_path / "run", small_run)


def check_is_complete(folder: Path) -> None:
    run_folder.verify(folder, result_of(folder))
    assert not [path for path in folder.iterdir() if path.is_dir()]  # no temporary folder


def check_is_empty(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.suffix in {".json", ".keras", ".onnx", ".png"}}
    assert names == {run_folder.JOB, run_folder.RECEIPT}


def test_a_download_that_is_cut_is_repeated(made: ServiceRun) -> None:
    made.azure.faults.add(Fault("GET", r"blob\.core.*outputs/model\.keras", kind="truncate"))
    succeeded(made.command("follow"))
    check_is_complete(made.folder)


def test_a_result_of_another_job_is_refused(azure: AzureService, small_run: Path, tmp_path: Path) -> None:
    made = ServiceRun(azure, tmp_path / "run", "seed=7")
    made.end(small_run)
    refused(made.command("follow"), BackendError.exit_code, "another job", "resume run")
    assert made.receipt().status is Status.failed
    check_is_empty(made.folder)


@pytest.mark.parametrize("name", ["../../evil.py", "run.json", "missing.bin"])
def test_a_result_that_names_a_file_not_its_own_is_refused(
    made: ServiceRun, small_run: Path, name: str
) -> None:
    result = result_of(small_run)
    files = {**result.files, name: result.files["model.keras"]}
    made.write_output("result.json", dataclasses.replace(result, files=files).to_json().encode())
    if name == "run.json":  # it is there, and is what the result says
        made.write_output(name, (small_run / "model.keras").read_bytes())
    refused(made.command("follow"), BackendError.exit_code)
    check_is_empty(made.folder)
    assert not (made.folder.parent.parent / "evil.py").exists()


def test_a_damaged_file_is_not_kept(made: ServiceRun, small_run: Path) -> None:
    made.write_output("model.keras", (small_run / "model.keras").read_bytes()[:-1])
    refused(made.command("follow"), BackendError.exit_code, "model.keras", "follow run", "cancel run")
    assert not made.receipt().status.is_final
    check_is_empty(made.folder)


def test_a_run_whose_result_stays_damaged_can_be_cancelled(made: ServiceRun, small_run: Path) -> None:
    """Until then it is neither completed nor can it be resumed."""
    made.write_output("model.keras", (small_run / "model.keras").read_bytes()[:-1])
    assert made.command("resume").code == ConfigurationError.exit_code
    made.command("cancel")
    receipt = made.receipt()
    assert receipt.status is Status.cancelled
    assert "model.keras" in str(receipt.error)
    assert "resume" in str(receipt.hint)
    check_is_empty(made.folder)


def test_a_result_that_cannot_be_written_here_can_be_downloaded_later(made: ServiceRun) -> None:
    (made.folder / "model.keras").mkdir()
    followed = made.command("follow")
    refused(followed, BackendError.exit_code, "cannot write", "model.keras: Is a directory", "follow run")
    assert not (made.folder / "result.json").exists()
    (made.folder / "model.keras").rmdir()
    succeeded(made.command("follow"))
    check_is_complete(made.folder)


def test_a_registration_that_lost_its_answer_makes_one_version(made: ServiceRun) -> None:
    model = f"lost-{made.id}"
    register = ("register", f"register.name={model}", "register.min_accuracy=0")
    made.azure.faults.add(Fault("POST", "/models$", kind="lose-answer"))
    succeeded(made.command("follow"))
    assert f"{model} version 1" in succeeded(made.command(*register)).out
    assert f"already registered: {model} version 1" in succeeded(made.command(*register)).out
    models = made.azure.handlers.models.all()
    assert [one["version"] for one in models if one["name"] == model] == [1]


def test_a_variable_that_breaks_the_sdks_own_waiting_does_no_harm(
    made: ServiceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_RUN_POLLING_INTERVAL_MIN", "1")
    assert made.command("follow", *chosen(made.azure)).code == 0
    assert calls(made.azure, "GET", "/details") >= 1


@pytest.mark.long
def test_a_run_whose_node_is_lost_during_the_upload_counts_once(azure: AzureService, tmp_path: Path) -> None:
    """The service starts it again; the second node trains no epoch, and cannot upload the same files."""
    azure.clusters.add("spot", vmPriority="LowPriority")
    azure.clusters.behave(restarts=True)
    lost: list[str] = []

    def lose_node_after_upload(request: Request) -> None:
        """Take the node away as the SDK on it waits for the metrics, after it has sent the files."""
        run_id = request.path.partition("/runs/")[2].partition("/")[0]
        is_waiting = not lost and request.path.endswith("/metricsingest/wait")
        if is_waiting and azure.handlers.artifacts.paths(ORIGIN, azure.runs[run_id].container, "outputs/"):
            lost.append(run_id)
            azure.jobs.lose_node(run_id)

    azure.server.listeners.append(lose_node_after_upload)
    try:
        ended = train(azure, tmp_path, "run_dir=run", "backend.cluster=spot")
    finally:
        azure.server.listeners.remove(lose_node_after_upload)
    run = azure.runs[run_folder.read_receipt(tmp_path / "run").id]
    assert [status for status in run.statuses if status in ("Running", "Failed")] == ["Running"] * 2 + [
        "Failed"
    ]
    assert "Resource Conflict" in run.document["error"]["error"]["message"]
    succeeded(ended, "a node was lost while it uploaded the result")
    run_folder.verify(tmp_path / "run", result_of(tmp_path / "run"))
