"""`backend=azure` from submission to registered model, with the unmodified SDK on the loopback service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.notebooks import Notebook
from helpers.processes import SMALL, run_command

from mnist_cnn.testing import BackendContract

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import calls, chosen, train

from mnist_cnn import run_folder

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = [
    pytest.mark.usefixtures("azure_environment"),
    pytest.mark.filterwarnings("ignore"),  # the SDK's own, when it is used within the tests' process
]


class TestAzureBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        return chosen(azure_environment)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL


def test_azure_and_local_train_to_the_same_weights(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    ended = run_command(*SMALL, *chosen(azure), "save_h5=true", "register.name=null", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    local, remote = json.loads((small_run / "result.json").read_text()), ended.json()["result"]
    assert remote["job_digest"] == local["job_digest"]
    assert remote["weights_sha256"] == local["weights_sha256"]
    assert remote["accuracy"] == local["accuracy"]
    metrics = next(line for line in ended.err.splitlines() if line.startswith("metrics: "))
    assert f"accuracy {local['accuracy']}" in metrics
    assert "epoch_loss" in metrics
    assert "experiment mnist-cnn: https://ml.azure.com/" in ended.err


def test_the_second_run_sends_neither_data_nor_code_again(azure: AzureService, tmp_path: Path) -> None:
    assert train(azure, tmp_path).code == 0
    azure.requests.clear()
    images = list(azure.jobs.images)
    second = train(azure, tmp_path)
    assert second.code == 0, second.err
    assert "4 of 4 files are already in mnist/" in second.err
    assert azure.jobs.images == images
    assert calls(azure, "POST", "/content/") == calls(azure, "PUT", "/snapshots") == 0
    assert calls(azure, "PUT", "/computes/") == 0
    stored = [e for e in azure.requests.exchanges() if e.method == "PUT" and "/azureml-blobstore" in e.path]
    assert [e.path.rpartition("/")[2] for e in stored] == ["job.json"]
    assert stored[0].bytes_up < 10_000


def test_a_sweep_submits_all_before_it_waits_and_shares_one_upload_and_one_snapshot(
    azure: AzureService, tmp_path: Path
) -> None:
    ended = train(azure, tmp_path, "--multirun", "train.learning_rate=0.5,1.0", "backend.data.overwrite=true")
    assert ended.code == 0, ended.err
    templates = [(e.method, e.template) for e in azure.requests.exchanges()]
    submitted = [i for i, (_, template) in enumerate(templates) if template.endswith("snapshotrun")]
    asked = [i for i, (_, template) in enumerate(templates) if template.endswith("/details")]
    assert len(submitted) == 2
    assert submitted[-1] < asked[0]
    data = [e for e in azure.requests.exchanges() if e.method == "PUT" and "/mnist/" in e.path]
    assert len(data) == 4
    assert sum(method == "POST" and "/snapshots/{snapshot}" in t for method, t in templates) <= 1
    assert "train.learning_rate=0.5" in ended.out
    assert "completed" in ended.out


def test_a_failure_on_the_node_is_the_runs_error_in_the_service_too(
    azure: AzureService, tmp_path: Path
) -> None:
    network = tmp_path / "net.py"
    network.write_text(
        "def build(config, input_shape, num_classes):\n    raise ValueError('no network today')\n"
    )
    ended = train(azure, tmp_path, f"model.file={network}", "run_dir=run")
    assert ended.code not in (0, 1), ended.err
    assert "no network today" in ended.err
    run = azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    assert "no network today" in json.dumps(run.document["error"])
    assert calls(azure, "POST", "snapshotrun") == 1  # for it would fail again


def test_no_secret_is_in_a_run_folder(azure: AzureService, tmp_path: Path) -> None:
    assert train(azure, tmp_path, "run_dir=run").code == 0
    secrets = (azure.tenancy.client_secret, azure.tenancy.account_key)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


def test_a_notebook_shows_a_run_on_the_cluster_as_it_trains(
    azure: AzureService, notebook_folder: Path
) -> None:
    overrides = (*chosen(azure), *SMALL, "train.epochs=3", "run_dir=run")
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
