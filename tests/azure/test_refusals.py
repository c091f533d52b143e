"""What the service refuses or loses before a run has started: worded, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import run_command

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import calls, chosen, refused, start, train
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = pytest.mark.usefixtures("azure_environment")


def test_a_lost_answer_to_the_submission_makes_one_run_and_not_two(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("POST", "snapshotrun", kind="lose-answer"))
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    sent = [e.query["runId"] for e in azure.requests.exchanges() if "snapshotrun" in e.template]
    assert len(set(sent)) == 1


def test_a_run_that_started_although_its_submission_failed_is_not_lost(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("PATCH", "/runs/", status=403))
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    assert "\nthe run has started\n" in ended.err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("PUT", r"blob\.core.*t10k-labels", status=403, times=0), "cannot send mnist/t10k-labels"),
        (Fault("GET", "/datastore/", status=403, times=0), "cannot find the default datastore"),
        (Fault("GET", "/computes/", status=403, times=0), "cannot find the cluster traincluster"),
        (Fault("GET", r"workspaces/loopback-workspace$", status=404, times=0), "cannot open the workspace"),
        (Fault("POST", "snapshotrun", status=400, times=0), "cannot submit the run"),
    ],
)
def test_what_the_service_refuses_is_exit_4_with_a_word_and_overwrites_nothing(
    azure: AzureService, tmp_path: Path, fault: Fault, said: str
) -> None:
    azure.faults.add(fault)
    ended = train(azure, tmp_path, "backend.data.overwrite=true", "run_dir=run")
    refused(ended, BackendError.exit_code, said)
    assert calls(azure, "PUT", "/computes/") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/computes/", status=403, times=0),
        Fault("GET", "/datastore/", status=403, times=0),
        Fault("GET", "/experiments/", status=403, times=0),
    ],
)
def test_where_a_look_is_refused_nothing_is_sent_and_no_cluster_made(
    azure: AzureService, tmp_path: Path, fault: Fault
) -> None:
    azure.faults.add(fault)
    ended = train(azure, tmp_path, "backend.data.overwrite=true", "backend.cluster=nevermade")
    refused(ended, BackendError.exit_code)
    assert calls(azure, "PUT", "") == 0
    assert "nevermade" not in azure.clusters


def test_what_cannot_be_sent_is_said_before_what_is_wrong_with_the_cluster(
    azure: AzureService, tmp_path: Path
) -> None:
    """Both are made at the same time; of two errors it is always the same one that is told."""
    azure.faults.add(
        Fault("PUT", r"blob\.core.*t10k-labels", status=403, times=0),
        Fault("PUT", "/computes/", status=403, times=0),
    )
    ended = train(azure, tmp_path, "backend.data.overwrite=true", "backend.cluster=refusedcluster")
    refused(ended, BackendError.exit_code, "error: cannot send mnist/t10k-labels")
    assert "refusedcluster: not found (nothing is billed)" in ended.err


def test_a_busy_store_loses_no_file(azure: AzureService, tmp_path: Path) -> None:
    """The SDK's own upload prints "Uploaded 0 files" and goes on."""
    azure.faults.add(Fault("PUT", r"blob\.core.*mnist/", status=429))
    assert train(azure, tmp_path, "backend.data.overwrite=true").code == 0


def test_a_cluster_that_differs_is_reported_and_left_as_it_is(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.add("othercluster")
    ended = train(azure, tmp_path, "backend.cluster=othercluster", "backend.vm_size=STANDARD_D3_V2")
    assert ended.code == 0, ended.err
    assert "has vm_size=STANDARD_D2_V2, not backend.vm_size=STANDARD_D3_V2" in ended.err
    assert "has max_nodes=4, not backend.max_nodes=1" in ended.err
    assert calls(azure, "PUT", "/computes/") == 0


@pytest.mark.parametrize("kind", ["ComputeInstance", "DataLakeAnalytics", "SomethingNew"])
def test_a_name_that_belongs_to_something_else_is_refused_and_left_alone(
    azure: AzureService, tmp_path: Path, kind: str
) -> None:
    """For a kind that it has no class for, the SDK's look-up returns None, as if there were nothing."""
    azure.clusters.add("machine", compute_type=kind)
    ended = train(azure, tmp_path, "backend.cluster=machine")
    refused(ended, BackendError.exit_code, "machine")
    assert calls(azure, "PUT", "/computes/") == 0
    if kind == "SomethingNew":
        azure.requests.clear()  # of a kind that is yet to come no document knows


def test_an_unknown_size_fails_once_and_its_failed_cluster_is_not_used(
    azure: AzureService, tmp_path: Path
) -> None:
    asked = ("backend.cluster=badcluster", "backend.vm_size=STANDARD_X99")
    ended = train(azure, tmp_path, *asked)
    refused(ended, BackendError.exit_code, "badcluster is failed", "STANDARD_X99", "cluster delete")
    ended = train(azure, tmp_path, asked[0])
    refused(ended, BackendError.exit_code, "badcluster is failed")
    deleted = run_command("cluster", "delete", *chosen(azure), asked[0], cwd=tmp_path)
    assert deleted.code == 0, deleted.err
    assert ": deleted" in deleted.out
    again = run_command("cluster", "delete", *chosen(azure), asked[0], cwd=tmp_path)
    assert again.code == 0
    assert "cluster badcluster: not found" in again.out


def test_a_quota_that_does_not_suffice_is_worded(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(quota_cores=1)
    ended = train(azure, tmp_path, "backend.cluster=quotacluster")
    refused(ended, BackendError.exit_code, "quotacluster is failed", "uota")


def test_a_datastore_that_is_no_blob_container_is_refused_before_the_upload(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.handlers.workspace.datastore_type = "AzureFile"
    try:
        ended = train(azure, tmp_path)
    finally:
        azure.handlers.workspace.datastore_type = "AzureBlob"
    refused(ended, BackendError.exit_code, "AzureFile")
    assert calls(azure, "PUT", "") == 0


def test_an_expired_secret_is_worded_with_what_to_do(azure: AzureService, tmp_path: Path) -> None:
    before = azure.handlers.identity.refuse_with
    azure.handlers.identity.expire_secret()
    try:
        ended = train(azure, tmp_path)
    finally:
        azure.handlers.identity.refuse_with = before
    refused(ended, BackendError.exit_code, "login was refused", "AADSTS7000222", "expired")


def test_a_cluster_is_made_with_its_state_shown_and_can_be_shown_and_deleted(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(polls_to_create=3)
    made = ("backend.cluster=newcluster", "backend.min_nodes=1", "backend.idle_seconds=120")
    ended = train(azure, tmp_path, *made)
    assert ended.code == 0, ended.err
    assert "cluster newcluster: creating; waiting for up to 20 minutes" in ended.err
    assert "cluster newcluster: ready" in ended.err
    assert '"currentNodeCount"' in ended.err
    assert "1 of them are never released (min_nodes)" in ended.err
    shown = run_command("cluster", "show", *chosen(azure), made[0], cwd=tmp_path)
    assert shown.code == 0, shown.err
    for text in (
        "newcluster: AmlCompute, Succeeded",
        "1 to 1 nodes; an idle node is released after 120 seconds",
    ):
        assert text in shown.out
    end_them = next(line for line in shown.out.splitlines() if line.startswith("release them now: "))
    deleted = run_command(*shlex.split(end_them)[6:], cwd=tmp_path)  # the words after `python -m mnist_cnn`
    assert deleted.code == 0, deleted.err
    assert "cluster newcluster: deleted" in deleted.out
    gone = run_command("cluster", "show", *chosen(azure), made[0], cwd=tmp_path)
    assert "cluster newcluster: not found" in gone.out


def test_a_cluster_that_is_gone_when_it_is_to_be_deleted_is_deleted(
    azure: AzureService, tmp_path: Path
) -> None:
    """The SDK's delete ends in a KeyError where the service says, as published, that there is none."""
    azure.clusters.add("goingcluster")
    azure.faults.add(Fault("DELETE", "/computes/", kind="lose-answer"))
    azure.clusters.behave(polls_to_delete=0)
    ended = run_command("cluster", "delete", *chosen(azure), "backend.cluster=goingcluster", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ": deleted" in ended.out


def test_a_cluster_whose_creation_lost_its_answer_is_used_and_not_made_again(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("PUT", "/computes/", kind="lose-answer"))
    ended = train(azure, tmp_path, "backend.cluster=answerless")
    assert ended.code == 0, ended.err
    assert azure.clusters["answerless"].state == "Succeeded"


def test_a_gpu_is_refused_where_the_cluster_has_none(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.add("cpucluster")
    asked = ("backend.cluster=cpucluster", "backend.use_gpu=true", "backend.vm_size=STANDARD_NC6")
    refused(train(azure, tmp_path, *asked), BackendError.exit_code, "cpucluster", "have no GPU")
    assert calls(azure, "POST", "snapshotrun") == 0


def test_a_service_that_is_away_is_no_workspace(azure: AzureService, tmp_path: Path) -> None:
    """The SDK returns a workspace all the same."""
    azure.faults.add(Fault("GET", "workspaces/loopback-workspace$", kind="drop", times=0))
    refused(train(azure, tmp_path), BackendError.exit_code, "cannot open the workspace", "network")


def test_a_wrong_secret_is_worded_and_not_repeated(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, AZUREML_SERVICE_PRINCIPAL_PASSWORD="not-the-secret")  # noqa: S106
    out, err = process.communicate(timeout=120)
    assert process.returncode == BackendError.exit_code, err
    assert "AADSTS7000215" in err
    assert "not-the-secret" not in out + err


def test_who_is_logged_in_to_the_azure_cli_needs_no_principal(azure: AzureService, tmp_path: Path) -> None:
    """The program `az` is a stand-in that gives out the service's token; the library that asks it is real."""
    token = azure.handlers.identity.token()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "azureProfile.json").write_text('{"subscriptions": [{}]}')
    said = json.dumps({"accessToken": token, "expires_on": int(time.time()) + 3600})
    (tools / "az").write_text(f"#!/bin/sh\necho \"$@\" >> {tools}/asked\necho '{said}'\n")
    (tools / "az").chmod(0o755)
    principal = {name: "" for name in os.environ if name.startswith("AZUREML_SERVICE_PRINCIPAL_")}
    path = f"{tools}:{os.environ['PATH']}"
    process = start(azure, tmp_path, **principal, PATH=path, AZURE_CONFIG_DIR=str(tools))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert token not in out + err
    asked = (tools / "asked").read_text().splitlines()
    assert 1 <= len(asked) <= 3
    assert "account get-access-token" in asked[0]


def test_the_container_is_compared_with_what_was_sent(azure: AzureService, tmp_path: Path) -> None:
    assert train(azure, tmp_path).code == 0
    azure.blobs.delete(azure.tenancy.container, "mnist/t10k-labels-idx1-ubyte.gz")
    azure.faults.add(Fault("PUT", r"blob\.core.*t10k-labels", status=201, times=0))  # and nothing is stored
    ended = train(azure, tmp_path)
    refused(ended, BackendError.exit_code, "does not have what was sent", "t10k-labels")


def test_a_model_whose_registration_lost_its_answer_has_one_version(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("POST", "/models$", kind="lose-answer"))
    named = ("register.name=answerless", "register.min_accuracy=0", "run_dir=run")
    ended = train(azure, tmp_path, *named)
    assert ended.code == 0, ended.err
    assert "registered: answerless version 1" in ended.out
    again = run_command("register", "run", *named[:2], cwd=tmp_path)
    assert "registered before: answerless version 1" in again.out
    versions = [model["version"] for model in azure.handlers.models.all() if model["name"] == "answerless"]
    assert versions == [1]


def test_metrics_that_cannot_be_read_do_no_harm(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("POST", "/metric/v2.0.*/(list|full)$", status=403, times=0))
    assert train(azure, tmp_path).code == 0


def test_a_download_that_is_cut_is_made_again(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("GET", r"blob\.core.*outputs/model\.keras", kind="truncate"))
    ended = train(azure, tmp_path, "run_dir=run")
    assert ended.code == 0, ended.err
    result = run_folder.read_result(tmp_path / "run")
    assert result is not None
    run_folder.verify(tmp_path / "run", result)


def test_metrics_that_cannot_be_sent_cost_no_result(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("POST", "/metric/v2.0.*/batch$", status=500, times=0))
    ended = train(azure, tmp_path, "run_dir=run")
    assert ended.code == 0, ended.err
    assert run_folder.read_receipt(tmp_path / "run").status is Status.completed


def test_a_run_that_the_service_fails_after_its_training_had_ended_keeps_its_result(
    azure: AzureService, tmp_path: Path
) -> None:
    """As where it could not take the last metrics; what cannot be brought now is brought later.

    Where a file of it is not what its result says, there is none: the run has failed, and can be resumed.
    """
    azure.faults.add(
        Fault("GET|POST", "metricsingest/wait", status=500, times=0),
        Fault("GET", r"/artifacts/ExperimentRun/[^/]+$", status=403, times=0),
    )
    ended = train(azure, tmp_path, "run_dir=run")
    refused(ended, BackendError.exit_code, "HTTP 403", "the service keeps its files", "follow run")
    assert run_folder.read_receipt(tmp_path / "run").status is not Status.failed
    azure.faults.clear()

    run_id = run_folder.read_receipt(tmp_path / "run").id
    place = ("ExperimentRun", f"dcid.{run_id}", "outputs/history.png")
    content = azure.handlers.artifacts.read(*place)
    azure.handlers.artifacts.write(*place, content[:-1])
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    followed = run_command("follow", "damaged", cwd=tmp_path)
    assert followed.code != 0
    assert "the run failed in the service" in followed.err
    assert run_folder.read_receipt(tmp_path / "damaged").status is Status.failed

    azure.handlers.artifacts.write(*place, content)
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == 0, followed.err
    assert "its training succeeded, and its result is sound" in followed.err
    assert run_folder.read_result(tmp_path / "run") is not None


def test_a_variable_that_breaks_the_sdks_own_waiting_does_no_harm(
    azure: AzureService, tmp_path: Path
) -> None:
    process = start(azure, tmp_path, AZUREML_RUN_POLLING_INTERVAL_MIN="1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_a_submission_of_which_nothing_is_known_is_found_again_later(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(
        Fault("PATCH", "/runs/", status=403),
        Fault("GET", "workspaces/[^/]+/runs/[^/]+$", status=403, times=0),  # not as the node asks
    )
    ended = train(azure, tmp_path, "run_dir=run")
    refused(ended, BackendError.exit_code, "not known whether run has started", "cancel run")
    azure.faults.clear()
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == 0, followed.err


def test_a_sweep_on_a_cluster_without_nodes_ends_in_its_time(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(full=True)
    ended = train(azure, tmp_path, "--multirun", "seed=1,2", "backend.queue_timeout=4")
    refused(ended, BackendError.exit_code, "waiting for a node for up to 4 seconds")
    assert ended.out.count("no node is free") >= 2
    for run in (tmp_path / "runs").iterdir():
        assert run_command("cancel", str(run), cwd=tmp_path).code == 0
