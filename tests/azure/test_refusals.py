"""What the service refuses or loses before a run has started is an error, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import (
    SDK_TESTS,
    calls,
    chosen,
    refused,
    run_here,
    start,
    submissions,
    submit,
    succeeded,
)
from helpers.processes import end_of
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = SDK_TESTS
WORKSPACE = r"workspaces/loopback-workspace$"
LABELS = r"blob\.core.*t10k-labels"
OVERWRITE = "backend.data.overwrite=true"
REFUSED = {
    "data": (Fault("PUT", LABELS, status=403, times=0), "cannot send mnist/t10k-labels"),
    "datastore": (Fault("GET", "/datastore/", status=403, times=0), "cannot find the default datastore"),
    "cluster": (Fault("GET", "/computes/", status=403, times=0), "cannot find the cluster traincluster"),
    "workspace": (Fault("GET", WORKSPACE, status=404, times=0), "cannot open the workspace"),
    # The SDK returns a workspace even if nothing can be reached.
    "network": (Fault("GET", WORKSPACE, kind="drop", times=0), "cannot open the workspace", "the network"),
    "run": (Fault("POST", "snapshotrun", status=400, times=0), "cannot submit the run"),
}


@pytest.mark.parametrize(("fault", "said"), [(fault, said) for fault, *said in REFUSED.values()], ids=REFUSED)
def test_a_refused_request_is_exit_4_and_says_which(
    azure: AzureService, tmp_path: Path, fault: Fault, said: list[str]
) -> None:
    if "traincluster" not in azure.clusters:
        azure.clusters.add("traincluster")
    azure.faults.add(fault)
    refused(submit(azure, tmp_path, OVERWRITE, "run_dir=run"), BackendError.exit_code, *said)
    assert calls(azure, "PUT", "/computes/") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


@pytest.mark.parametrize("path", ["/computes/", "/datastore/", "/experiments/"])
def test_after_a_refused_lookup_nothing_is_sent_or_created(
    azure: AzureService, tmp_path: Path, path: str
) -> None:
    azure.faults.add(Fault("GET", path, status=403, times=0))
    refused(submit(azure, tmp_path, OVERWRITE, "backend.cluster=nevermade"), BackendError.exit_code)
    assert calls(azure, "PUT", "") == 0
    assert "nevermade" not in azure.clusters


def test_an_error_of_the_data_comes_before_one_of_the_cluster(azure: AzureService, tmp_path: Path) -> None:
    """Both are sent at the same time; of two errors it is always the same one that is reported."""
    azure.faults.add(
        Fault("PUT", LABELS, status=403, times=0), Fault("PUT", "/computes/", status=403, times=0)
    )
    ended = submit(azure, tmp_path, OVERWRITE, "backend.cluster=refusedcluster")
    refused(ended, BackendError.exit_code, "error: cannot send mnist/t10k-labels", "refusedcluster")


def test_a_busy_store_loses_no_file(azure: AzureService, tmp_path: Path) -> None:
    """The SDK's own upload would print "Uploaded 0 files" and continue."""
    azure.faults.add(Fault("PUT", r"blob\.core.*mnist/", status=429))
    submit(azure, tmp_path, OVERWRITE, "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued


def test_the_container_is_compared_with_what_was_sent(azure: AzureService, tmp_path: Path) -> None:
    azure.blobs.delete(azure.tenancy.container, "mnist/t10k-labels-idx1-ubyte.gz")
    azure.faults.add(Fault("PUT", LABELS, status=201, times=0))  # and nothing is stored
    refused(submit(azure, tmp_path), BackendError.exit_code, "what was sent", "t10k-labels")
    assert submissions(azure) == 0


def test_a_datastore_of_another_kind_is_refused(azure: AzureService, tmp_path: Path) -> None:
    azure.handlers.workspace.datastore_type = "AzureFile"
    try:
        ended = submit(azure, tmp_path)
    finally:
        azure.handlers.workspace.datastore_type = "AzureBlob"
    refused(ended, BackendError.exit_code, "AzureFile")
    assert calls(azure, "PUT", "") == 0


def test_a_datastore_without_keys_is_for_the_other_sdk(azure: AzureService, tmp_path: Path) -> None:
    azure.handlers.workspace.has_keys = False
    try:
        ended = submit(azure, tmp_path)
    finally:
        azure.handlers.workspace.has_keys = True
    refused(ended, BackendError.exit_code, "neither a key nor a SAS token", "backend.sdk=v2")
    assert calls(azure, "PUT", "") == 0


def test_an_expired_secret_is_an_error_with_a_hint(azure: AzureService, tmp_path: Path) -> None:
    before = azure.handlers.identity.refuse_with
    azure.handlers.identity.expire_secret()
    try:
        ended = end_of(start(azure, tmp_path))
    finally:
        azure.handlers.identity.refuse_with = before
    refused(ended, BackendError.exit_code, "login was refused", "AADSTS7000222", "expired")


def test_a_wrong_subscription_is_an_error_that_names_it(azure: AzureService, tmp_path: Path) -> None:
    names = json.loads((azure.home / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(names | {"subscription_id": "wrong"}))
    ended = run_here("cluster", "show", "backend=azure", f"backend.workspace={tmp_path}", cwd=tmp_path)
    refused(ended, BackendError.exit_code, "no access to a subscription wrong\n", "config.json")
    assert azure.tenancy.subscription not in ended.err


def test_a_login_of_the_azure_cli_needs_no_principal(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program `az` is a stand-in that gives out the service's token; the library that asks it is real."""
    token = azure.handlers.identity.token()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "azureProfile.json").write_text('{"subscriptions": [{}]}')
    said = json.dumps({"accessToken": token, "expires_on": int(time.time()) + 3600})
    (tools / "az").write_text(f"#!/bin/sh\necho \"$@\" >> {tools}/asked\necho '{said}'\n")
    (tools / "az").chmod(0o755)
    for name in [name for name in os.environ if name.startswith("AZUREML_SERVICE_PRINCIPAL_")]:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AZUREML_SERVICE_PRINCIPAL_TENANT_ID", azure.tenancy.tenant)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tools))
    shown = succeeded(run_here("cluster", "show", *chosen(azure), "backend.cluster=nocluster", cwd=tmp_path))
    assert token not in shown.out + shown.err
    asked = (tools / "asked").read_text().splitlines()
    assert 1 <= len(asked) <= 3
    assert "account get-access-token" in asked[0]
    assert "--resource https://management.core.windows.net/ " in asked[0]  # az needs the slash
    assert f"--tenant {azure.tenancy.tenant}" in asked[0]
