"""What the service refuses before a run of SDK v2 has started is an error; nothing is overwritten."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import V2_TESTS, calls, chosen_v2, refused, run_here, succeeded
from helpers.azure_commands import submit as submit_by
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = V2_TESTS
submit = functools.partial(submit_by, chosen=chosen_v2)
LABELS = r"blob\.core.*t10k-labels"
OVERWRITE = "backend.data.overwrite=true"
WORKSPACE = r"workspaces/loopback-workspace$"
REFUSED = {
    "data": (Fault("PUT", LABELS, status=403, times=0), "cannot send mnist/t10k-labels"),
    "datastore": (Fault("GET", "/datastores", status=403, times=0), "cannot find the default datastore"),
    "cluster": (Fault("GET", "/computes/", status=403, times=0), "cannot find the cluster traincluster"),
    "code": (Fault("PUT", "/codes/", status=403, times=0), "cannot name the code"),
    "environment": (Fault("GET", "/environments/", status=403, times=0), "cannot find the environment"),
    "workspace": (Fault("GET", WORKSPACE, status=404, times=0), "cannot open the workspace"),
    "network": (Fault("GET", WORKSPACE, kind="drop", times=0), "cannot open the workspace", "the network"),
    "run": (Fault("PUT", "/jobs/", status=400, times=0), "cannot submit the run"),
}
BUSY = {
    "the cluster": Fault("GET", "/computes/", status=429),
    "the job": Fault("PUT", "/jobs/", status=429),
    "the data": Fault("PUT", r"blob\.core.*mnist/", status=429),
}


@pytest.fixture(autouse=True)
def _cluster(azure: AzureService) -> None:
    if "traincluster" not in azure.clusters:
        azure.clusters.add("traincluster")


@pytest.mark.parametrize(("fault", "said"), [(fault, said) for fault, *said in REFUSED.values()], ids=REFUSED)
def test_a_refused_request_is_exit_4_and_says_which(
    azure: AzureService, tmp_path: Path, fault: Fault, said: list[str]
) -> None:
    azure.faults.add(fault)
    refused(submit(azure, tmp_path, OVERWRITE, "run_dir=run"), BackendError.exit_code, *said)
    assert calls(azure, "PUT", "/computes/") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


def test_a_name_that_the_service_refuses_can_be_replaced(azure: AzureService, tmp_path: Path) -> None:
    """The published rules for names differ, so the service may refuse one that this program accepts."""
    azure.faults.add(Fault("PUT", "/computes/refusedname", status=400, times=0))
    ended = submit(azure, tmp_path, "backend.cluster=refusedname", "run_dir=run")
    refused(ended, BackendError.exit_code, "cannot create the cluster refusedname", "backend.cluster=NAME")
    run_here("resume", "run", "backend.cluster=othername", cwd=tmp_path)
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued


def test_an_error_of_the_data_comes_before_one_of_the_cluster(azure: AzureService, tmp_path: Path) -> None:
    """Both are sent at the same time; of two errors it is always the same one that is reported."""
    azure.faults.add(
        Fault("PUT", LABELS, status=403, times=0), Fault("PUT", "/computes/", status=403, times=0)
    )
    ended = submit(azure, tmp_path, OVERWRITE, "backend.cluster=refusedcluster")
    refused(ended, BackendError.exit_code, "error: cannot send mnist/t10k-labels", "refusedcluster")


@pytest.mark.parametrize("path", ["/computes/", "/datastores"])
def test_after_a_refused_lookup_nothing_is_sent_or_created(
    azure: AzureService, tmp_path: Path, path: str
) -> None:
    azure.faults.add(Fault("GET", path, status=403, times=0))
    refused(submit(azure, tmp_path, OVERWRITE, "backend.cluster=nevermade"), BackendError.exit_code)
    assert calls(azure, "PUT", "") == 0
    assert "nevermade" not in azure.clusters


@pytest.mark.parametrize("headers", [(), (("Retry-After", "1"),)], ids=["no header", "Retry-After"])
@pytest.mark.parametrize("fault", BUSY.values(), ids=BUSY)
def test_a_busy_service_is_asked_again(
    azure: AzureService, tmp_path: Path, fault: Fault, headers: tuple[tuple[str, str], ...]
) -> None:
    azure.faults.add(Fault(fault.method, fault.path, status=429, headers=headers))
    submit(azure, tmp_path, OVERWRITE, "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert calls(azure, "PUT", "/jobs/") == (2 if fault is BUSY["the job"] else 1)


def test_a_cluster_is_created_once_if_the_answer_is_lost(azure: AzureService, tmp_path: Path) -> None:
    """The SDK would repeat the request, and so overwrite the cluster."""
    azure.faults.add(Fault("PUT", "/computes/", kind="lose-answer"))
    submit(azure, tmp_path, "backend.cluster=lostanswer", "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert calls(azure, "PUT", "/computes/") == 1


def test_the_container_is_compared_with_what_was_sent(azure: AzureService, tmp_path: Path) -> None:
    azure.blobs.delete(azure.tenancy.container, "mnist/t10k-labels-idx1-ubyte.gz")
    azure.faults.add(Fault("PUT", LABELS, status=201, times=0))  # and nothing is stored
    refused(submit(azure, tmp_path), BackendError.exit_code, "what was sent", "t10k-labels")
    assert calls(azure, "PUT", "/jobs/") == 0


def test_an_expired_secret_is_an_error_with_a_hint(azure: AzureService, tmp_path: Path) -> None:
    before = azure.handlers.identity.refuse_with
    azure.handlers.identity.expire_secret()
    try:
        ended = submit(azure, tmp_path)
    finally:
        azure.handlers.identity.refuse_with = before
    refused(ended, BackendError.exit_code, "login was refused", "AADSTS7000222", "expired")


def test_a_wrong_subscription_is_an_error(azure: AzureService, tmp_path: Path) -> None:
    names = json.loads((azure.home / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(names | {"subscription_id": "wrong"}))
    show = ("cluster", "show", *chosen_v2(azure), f"backend.workspace={tmp_path}")
    refused(run_here(*show, cwd=tmp_path), BackendError.exit_code, "cannot open the workspace")


def test_the_variables_of_newer_libraries_log_in_too(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for old, new in (("TENANT_ID", "TENANT_ID"), ("ID", "CLIENT_ID"), ("PASSWORD", "CLIENT_SECRET")):
        monkeypatch.setenv(f"AZURE_{new}", os.environ[f"AZUREML_SERVICE_PRINCIPAL_{old}"])
        if old != "PASSWORD":  # which `succeeded` searches for
            monkeypatch.setenv(f"AZUREML_SERVICE_PRINCIPAL_{old}", "")
    monkeypatch.setenv("AZUREML_SERVICE_PRINCIPAL_PASSWORD", "")
    shown = run_here("cluster", "show", *chosen_v2(azure), "backend.cluster=nocluster", cwd=tmp_path)
    succeeded(shown)
    assert "cluster nocluster: not found" in shown.out
