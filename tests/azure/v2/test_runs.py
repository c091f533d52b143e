"""`backend.sdk=v2` from submission to registered model, with the unmodified SDK on the loopback service."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import (
    SDK_TESTS,
    V2_TESTS,
    calls,
    chosen,
    chosen_v2,
    refused,
    run_here,
    succeeded,
)
from helpers.azure_commands import submit as submit_by
from helpers.azure_commands import train as train_by
from helpers.processes import SMALL, Ended

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = V2_TESTS
submit = functools.partial(submit_by, chosen=chosen_v2)
train = functools.partial(train_by, chosen=chosen_v2)
MIN = "register.min_accuracy=0"


def job_sent(azure: AzureService) -> dict[str, Any]:
    """Return the job that was submitted last."""
    sent = [e.sent for e in azure.requests.exchanges() if e.method == "PUT" and "/jobs/" in e.path]
    properties: dict[str, Any] = sent[-1]["properties"]
    return properties


@pytest.fixture(scope="module")
def cluster_run(
    azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended]:
    """The folder of a small run that was trained on the cluster, and how the command ended."""
    home = tmp_path_factory.mktemp("cluster")
    overrides = (*SMALL, *chosen_v2(azure_environment), "register.name=null", "run_dir=run")
    ended = succeeded(run_here(*overrides, "--json", cwd=home))
    return home / "run", ended


def test_azure_and_local_train_to_the_same_weights(
    cluster_run: tuple[Path, Ended], small_run: Path, azure: AzureService
) -> None:
    folder, ended = cluster_run
    local, remote = json.loads((small_run / "result.json").read_text()), ended.json()["result"]
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert remote[name] == local[name]
    assert f"accuracy {local['accuracy']}" in ended.err
    assert "has 1 node, which is billed until released" in ended.err
    assert azure.runs[run_folder.read_receipt(folder).id].status == "Completed"


@SDK_TESTS[0]
@pytest.mark.long
def test_both_sdks_train_to_the_same_weights(
    cluster_run: tuple[Path, Ended], azure: AzureService, tmp_path: Path
) -> None:
    overrides = (*SMALL, *chosen(azure), "backend.sdk=v1", "register.name=null", "run_dir=run")
    first, second = (
        ended.json()["result"]
        for ended in (succeeded(run_here(*overrides, "--json", cwd=tmp_path)), cluster_run[1])
    )
    assert calls(azure, "POST", "snapshotrun") == 1
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert first[name] == second[name]


def test_the_receipt_says_which_sdk_a_later_command_needs(cluster_run: tuple[Path, Ended]) -> None:
    assert run_folder.read_receipt(cluster_run[0]).backend_settings["sdk"] == "v2"


def test_each_epoch_has_its_metrics_in_the_studio(
    cluster_run: tuple[Path, Ended], azure: AzureService
) -> None:
    folder, ended = cluster_run
    rows = azure.handlers.metrics.rows(run_folder.read_receipt(folder).id)
    sent = [(row["step"], row["value"]) for row in rows if row["key"] == "epoch_accuracy"]
    history = ended.json()["result"]["history"]
    assert sent == [(row["epoch"], row["accuracy"]) for row in history]
    names = ("accuracy", "epoch_accuracy", "epoch_loss", "loss", "val_accuracy", "val_loss")
    assert sorted({row["key"] for row in rows}) == list(names)


@pytest.mark.usefixtures("cluster_run")
def test_a_second_run_sends_neither_data_nor_code_again(azure: AzureService, tmp_path: Path) -> None:
    images = list(azure.jobs.images)
    second = submit(azure, tmp_path, "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert "4 of 4 files are already in mnist/" in second.err
    assert azure.jobs.images == images
    assert calls(azure, "PUT", "/computes/") == calls(azure, "PUT", "/environments/") == 0
    stored = [e for e in azure.requests.exchanges() if e.method == "PUT" and "/azureml-blobstore" in e.path]
    assert [e.path.rpartition("/")[2] for e in stored] == ["job.json"]


def test_a_datastore_without_a_key_needs_none(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure.handlers.workspace, "has_keys", False)
    assert "without a key" in submit(azure, tmp_path, "run_dir=run").err
    assert job_sent(azure)["identity"]["identityType"] == "UserIdentity"


def test_a_storage_account_that_refuses_its_keys_takes_the_login(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure.handlers.workspace, "takes_keys", False)
    ended = succeeded(train(azure, tmp_path, "run_dir=run", "register.name=keyless", MIN), "without a key")
    assert (tmp_path / "run" / "model.keras").exists()
    assert "keyless version 1" in ended.out
    assert job_sent(azure)["identity"]["identityType"] == "UserIdentity"


def test_nothing_is_said_of_the_users_own_repository(azure: AzureService, tmp_path: Path) -> None:
    """The SDK would send its address, branch and commit, but the code does not come from there."""
    for name in ("objects", "refs"):
        (tmp_path / ".git" / name).mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/private\n")
    (tmp_path / ".git" / "config").write_text('[remote "origin"]\n\turl = https://example.org/private.git\n')
    submit(azure, tmp_path, "run_dir=run")
    assert "private" not in json.dumps(job_sent(azure))
    assert job_sent(azure).get("identity") is None


@SDK_TESTS[0]
def test_a_run_is_asked_through_its_own_sdk_and_can_continue_with_the_other(
    azure: AzureService, tmp_path: Path
) -> None:
    submit_by(azure, tmp_path, "backend.sdk=v1", "run_dir=runs/old")
    submit(azure, tmp_path, "run_dir=runs/new")
    listed = succeeded(run_here("list", "--json", cwd=tmp_path)).json()
    assert [(run["run"], run["status"]) for run in listed] == [
        ("new", "queued"),
        ("old", "queued"),
    ]
    resume = ("resume", "runs/old", "backend.sdk=v2", "backend.queue_timeout=300", "register.name=null")
    refused(run_here(*resume, cwd=tmp_path), ConfigurationError.exit_code, "old is queued")
    for run in ("runs/old", "runs/new"):
        succeeded(run_here("cancel", run, cwd=tmp_path))
    azure.clusters.behave(full=False)
    succeeded(run_here(*resume, cwd=tmp_path))
    receipt = run_folder.read_receipt(tmp_path / "runs" / "old")
    assert (receipt.status, receipt.backend_settings["sdk"]) == (Status.completed, "v2")


def test_a_workspace_in_legacy_mode_is_for_the_other_sdk(azure: AzureService, tmp_path: Path) -> None:
    azure.handlers.workspace.is_legacy = True
    try:
        ended = submit(azure, tmp_path)
    finally:
        azure.handlers.workspace.is_legacy = False
    refused(ended, BackendError.exit_code, "v1_legacy_mode", "backend.sdk=v1")
    assert calls(azure, "PUT", "") == 0
