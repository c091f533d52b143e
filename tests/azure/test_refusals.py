"""What the service refuses or loses before a run has started is an error, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import calls, chosen, refused, run_here, start, submissions, submit
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = [
    pytest.mark.usefixtures("azure_environment"),
    pytest.mark.filterwarnings("ignore"),  # the SDK's own, in this process
]
LABELS = r"blob\.core.*t10k-labels"
OVERWRITE = "backend.data.overwrite=true"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("PUT", LABELS, status=403, times=0), "cannot send mnist/t10k-labels"),
        (Fault("GET", "/datastore/", status=403, times=0), "cannot find the default datastore"),
        (Fault("GET", "/computes/", status=403, times=0), "cannot find the cluster traincluster"),
        (Fault("GET", r"workspaces/loopback-workspace$", status=404, times=0), "cannot open the workspace"),
        (Fault("POST", "snapshotrun", status=400, times=0), "cannot submit the run"),
    ],
    ids=["data", "datastore", "cluster", "workspace", "run"],
)
def test_a_refused_request_is_exit_4_and_says_which(
    azure: AzureService, tmp_path: Path, fault: Fault, said: str
) -> None:
    if "traincluster" not in azure.clusters:
        azure.clusters.add("traincluster")
    azure.faults.add(fault)
    refused(submit(azure, tmp_path, OVERWRITE, "run_dir=run"), BackendError.exit_code, said)
    assert calls(azure, "PUT", "/computes/") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


@pytest.mark.parametrize("path", ["/computes/", "/datastore/", "/experiments/"])
def test_after_a_refused_lookup_nothing_is_sent_or_created(
    azure: AzureService, tmp_path: Path, path: str
) -> None:
    azure.faults.add(Fault("GET", path, status=403, times=0))
    ended = submit(azure, tmp_path, OVERWRITE, "backend.cluster=nevermade")
    refused(ended, BackendError.exit_code)
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


def test_an_unreachable_service_is_not_a_workspace(azure: AzureService, tmp_path: Path) -> None:
    """The SDK returns a workspace even then."""
    azure.faults.add(Fault("GET", "workspaces/loopback-workspace$", kind="drop", times=0))
    refused(submit(azure, tmp_path), BackendError.exit_code, "cannot open the workspace", "network")


def test_an_expired_secret_is_an_error_with_a_hint(azure: AzureService, tmp_path: Path) -> None:
    before = azure.handlers.identity.refuse_with
    azure.handlers.identity.expire_secret()
    try:
        process = start(azure, tmp_path)
        _, err = process.communicate()
    finally:
        azure.handlers.identity.refuse_with = before
    assert process.returncode == BackendError.exit_code, err
    for text in ("login was refused", "AADSTS7000222", "expired"):
        assert text in err


def test_a_wrong_secret_is_not_repeated(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, AZUREML_SERVICE_PRINCIPAL_PASSWORD="not-the-secret")  # noqa: S106
    out, err = process.communicate()
    assert process.returncode == BackendError.exit_code, err
    assert "AADSTS7000215" in err
    assert "not-the-secret" not in out + err


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
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tools))
    shown = run_here("cluster", "show", *chosen(azure), "backend.cluster=nocluster", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert token not in shown.out + shown.err
    asked = (tools / "asked").read_text().splitlines()
    assert 1 <= len(asked) <= 3
    assert "account get-access-token" in asked[0]
