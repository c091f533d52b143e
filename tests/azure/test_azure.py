"""`backend=azure` from submission to registered model, with the unmodified SDK on the loopback service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import (
    FAILS_ON_A_NODE,
    SDK_TESTS,
    calls,
    chosen,
    run_here,
    submissions,
    submit,
    succeeded,
    train,
)
from helpers.notebooks import Notebook
from helpers.processes import SMALL, TINY, Ended
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.testing import BackendContract

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = SDK_TESTS


class TestAzureBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        return chosen(azure_environment)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return (*TINY, "train.epochs=2")


@pytest.fixture(scope="module")
def cluster_run(
    azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended]:
    """The folder of a small run that was trained on the cluster, and how the command ended."""
    home = tmp_path_factory.mktemp("cluster")
    overrides = (*SMALL, *chosen(azure_environment), "save_h5=true", "register.name=null", "run_dir=run")
    ended = succeeded(run_here(*overrides, "--json", cwd=home))
    return home / "run", ended


def test_azure_and_local_train_to_the_same_weights(
    cluster_run: tuple[Path, Ended], small_run: Path, azure: AzureService
) -> None:
    folder, ended = cluster_run
    local, remote = json.loads((small_run / "result.json").read_text()), ended.json()["result"]
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert remote[name] == local[name]
    metrics = next(line for line in ended.err.splitlines() if line.startswith("metrics: "))
    assert f"accuracy {local['accuracy']}" in metrics
    assert "epoch_loss" in metrics
    assert "experiment mnist-cnn: https://ml.azure.com/" in ended.err
    assert azure.runs[run_folder.read_receipt(folder).id].status == "Completed"


@pytest.mark.usefixtures("cluster_run")
def test_a_second_run_sends_neither_data_nor_code_again(azure: AzureService, tmp_path: Path) -> None:
    images = list(azure.jobs.images)
    second = submit(azure, tmp_path, "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert "4 of 4 files are already in mnist/" in second.err
    assert azure.jobs.images == images
    assert calls(azure, "POST", "/content/") == calls(azure, "PUT", "/snapshots") == 0
    assert calls(azure, "PUT", "/computes/") == 0
    stored = [e for e in azure.requests.exchanges() if e.method == "PUT" and "/azureml-blobstore" in e.path]
    assert [e.path.rpartition("/")[2] for e in stored] == ["job.json"]
    assert stored[0].bytes_up < 10_000


def test_a_failure_on_the_node_is_the_runs_error_in_the_service(azure: AzureService, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FAILS_ON_A_NODE.format(error="ValueError('no network today')"))
    ended = train(azure, tmp_path, "model.file=net.py", "run_dir=run")
    assert ended.code not in (0, 1), ended.err
    assert "no network today" in ended.err
    run = azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    assert "no network today" in json.dumps(run.document["error"])
    assert submissions(azure) == 1  # it would fail again


def test_metrics_that_the_service_does_not_take_cost_no_result(azure: AzureService, tmp_path: Path) -> None:
    """Nor does it that the service then fails the run, whose training had ended."""
    azure.faults.add(Fault("GET|POST", "/metric/v2.0.*/batch$|metricsingest/wait", status=403, times=0))
    succeeded(train(azure, tmp_path, "run_dir=run"))
    receipt = run_folder.read_receipt(tmp_path / "run")
    assert receipt.status is Status.completed
    assert azure.runs[receipt.id].status == "Failed"


@pytest.mark.long
def test_a_notebook_shows_a_run_on_the_cluster_as_it_trains(
    azure: AzureService, notebook_folder: Path
) -> None:
    # Long enough for several questions about its status, however fast the machine.
    overrides = (*chosen(azure), *SMALL, "train.epochs=40", "run_dir=run")
    notebook = Notebook(
        notebook_folder,
        "import mnist_cnn",
        f"run = mnist_cnn.submit(*{overrides!r})",
        "mnist_cnn.follow(run)",
        "run.wait().accuracy",
    )
    notebook.execute()
    shown = notebook.shown(2)
    receipt = run_folder.read_receipt(notebook_folder / "run")
    assert receipt.url is not None
    assert receipt.url in shown
    assert "run run: completed" in shown
    updates = [data["text/plain"] for cell, _, data in notebook.seen if cell == 2]
    tables = [text for text in updates if text.startswith("epoch")]
    assert len(tables) >= 2  # the history grew while it trained
    result = run_folder.read_result(notebook_folder / "run")
    assert result is not None
    assert str(result.accuracy) in notebook.nb.cells[3].outputs[0]["data"]["text/plain"]
