"""How the loopback service executes runs: queues, nodes, mounts, preemption, deletion, deadlines."""

from __future__ import annotations

import json
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from helpers.loopback_calls import API, COMPUTE, EXPERIMENT, SNAPSHOTS, call, submit

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.compute import Cluster

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="azureml-sdk cannot be installed there")

RUN = f"{EXPERIMENT}/runs/{{}}"
ONE_NODE = {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT120S"}
PYTHON_38 = {"python": {"condaDependencies": {"dependencies": ["python=3.8.13"]}}}
SLEEP = "import time; print('start', flush=True); time.sleep(600)"
END_AT_THE_SECOND_START = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
starts = len(list(folder.glob("start*"))) + 1
(folder / f"start{starts}").touch()
print("start", starts, flush=True)
if starts < 2:
    time.sleep(600)
"""


@pytest.fixture
def small(azure: AzureService) -> Cluster:
    return azure.clusters.add("small")


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid.uuid4()}"


def error_of(azure: AzureService, run_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a failed run's error and its warnings."""
    document = azure.runs.wait_for(run_id, "Failed").document
    return document["error"], document.get("warnings") or []


@pytest.mark.usefixtures("small")
def test_a_script_that_raises_hides_the_services_error_in_a_warning(azure: AzureService, run_id: str) -> None:
    submit(azure, "raise SystemExit(3)", run_id)
    error, (warning,) = error_of(azure, run_id)
    assert error["error"]["message"] == "User program failed with SystemExit: 3"
    assert error["error"]["innerError"] is None
    assert error["time"].startswith("0001-01-01")
    assert "JobFailed" not in json.dumps(error)
    assert warning["source"] == "SecondaryError"
    assert "\nJobFailed: " in json.loads(warning["message"])["error"]["message"]


@pytest.mark.usefixtures("small")
def test_the_error_of_a_silent_script_has_neither_exit_code_nor_log(azure: AzureService, run_id: str) -> None:
    submit(azure, "import os; print('a line', flush=True); os._exit(3)", run_id)
    error, warnings = error_of(azure, run_id)
    message = error["error"]["message"]
    assert message.startswith("AzureMLCompute job failed.\nJobFailed: ")
    assert message.endswith("non-zero exit Code")
    assert not warnings
    assert "3" not in message
    assert "a line" not in message


@pytest.mark.usefixtures("small")
def test_only_the_log_says_why_an_image_was_not_built(azure: AzureService, run_id: str) -> None:
    submit(azure, "", run_id, environment=PYTHON_38)
    error, _ = error_of(azure, run_id)
    path = error["error"]["messageParameters"]["ArtifactPath"]
    assert error["error"]["innerError"]["code"] == "BadArgument"
    assert error["error"]["message"].endswith(f"check log file {path}.")
    log = azure.handlers.artifacts.read("ExperimentRun", azure.runs[run_id].container, path)
    assert b"python=3.8.13" in log


@pytest.mark.usefixtures("small")
def test_a_run_fails_if_its_data_are_missing(azure: AzureService, run_id: str) -> None:
    submit(azure, "", run_id, data="nowhere")
    error, _ = error_of(azure, run_id)
    assert error["error"]["innerError"]["code"] == "DataReferenceError"
    assert "'nowhere'" in error["error"]["message"]


def test_a_run_waits_for_a_node_and_can_be_cancelled_meanwhile(azure: AzureService) -> None:
    cluster = azure.clusters.add("small", scaleSettings=ONE_NODE)
    azure.clusters.behave(full=True, allocation_error="no cores left")
    first, second, third = (f"run-{uuid.uuid4()}" for _ in range(3))
    for run_id in (first, second, third):
        submit(azure, SLEEP, run_id)
        azure.runs.wait_for(run_id, "Queued")
    status = call(azure, "GET", COMPUTE.format("small"))[1]["properties"]["properties"]
    assert (status["currentNodeCount"], status["allocationState"]) == (0, "Resizing")
    assert status["errors"][0]["error"]["message"] == "no cores left"

    assert call(azure, "POST", azure.runs[first].document["cancelUri"]) == (200, {"runId": first})
    run = azure.runs.wait_for(first, "Canceled")
    assert run.statuses[-3:] == ["Queued", "CancelRequested", "Canceled"]

    azure.clusters.behave(full=False)
    azure.runs.wait_for(second, "Running")
    assert cluster.busy == [second]  # the cluster has one node
    assert cluster.waiting == [third]
    for run_id in (second, third):
        azure.runs.cancel(run_id)
        azure.runs.wait_for(run_id, "Canceled")
    assert not cluster.busy


def test_a_run_whose_image_is_being_built_does_not_wait_for_a_node(azure: AzureService, run_id: str) -> None:
    cluster = azure.clusters.add("small")
    azure.clusters.behave(building=True)
    submit(
        azure,
        "",
        run_id,
        environment={"python": {"userManagedDependencies": True, "condaDependencies": {"name": run_id}}},
    )
    run = azure.runs.wait_for(run_id, "Preparing")
    details = call(azure, "GET", f"{RUN}/details".format(run_id))[1]
    assert list(details["logFiles"]) in ([], ["azureml-logs/20_image_build_log.txt"])
    assert not cluster.waiting
    azure.clusters.behave(building=False)
    azure.runs.wait_for(run_id, "Completed")
    status = json.loads(run.document["tags"]["_aml_system_ComputeTargetStatus"])
    assert set(status) == {"AllocationState", "PreparingNodeCount", "RunningNodeCount", "CurrentNodeCount"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("old_runtime", [False, True])
def test_a_runtime_names_the_logs(azure: AzureService, run_id: str, *, old_runtime: bool) -> None:
    azure.clusters.behave(old_runtime=old_runtime)
    submit(azure, "print('hello')", run_id)
    azure.runs.wait_for(run_id, "Completed")
    logs = call(azure, "GET", f"{RUN}/details".format(run_id))[1]["logFiles"]
    script = "azureml-logs/70_driver_log.txt" if old_runtime else "user_logs/std_log.txt"
    assert script in logs
    assert any("55_azureml-execution-tvmps_" in name for name in logs) == old_runtime


def test_a_run_on_a_failed_cluster_fails(azure: AzureService, run_id: str) -> None:
    azure.clusters.add("small", state="Failed")
    submit(azure, "", run_id)
    error, _ = error_of(azure, run_id)
    assert error["error"]["message"] == "small is in failed state and thus not ready for runs"


@pytest.mark.usefixtures("small")
def test_a_run_is_cancelled_at_its_deadline(azure: AzureService, run_id: str) -> None:
    submit(azure, SLEEP, run_id, maxRunDurationSeconds=1)
    run = azure.runs.wait_for(run_id, "Canceled")
    assert "exceeded 1 s" in run.document["cancelationReason"]


@pytest.mark.usefixtures("small")
def test_a_run_fails_if_its_cluster_is_deleted(azure: AzureService, run_id: str) -> None:
    submit(azure, SLEEP, run_id)
    azure.runs.wait_for(run_id, "Running")
    url = COMPUTE.format("small") + "&underlyingResourceAction=delete"
    assert call(azure, "DELETE", url) == (202, None)
    run = azure.runs.wait_for(run_id, "Failed")
    assert "was deleted" in run.document["error"]["error"]["message"]


@pytest.mark.parametrize("ends_as", ["Completed", "Failed", "Canceled"])
def test_a_preempted_run_starts_again_or_fails_or_is_cancelled(
    azure: AzureService, run_id: str, ends_as: str
) -> None:
    cluster = azure.clusters.add("small", vmPriority="LowPriority")
    restarts = ends_as == "Completed"
    azure.clusters.behave(preempt_at="start 1", restarts=restarts, cancels=ends_as == "Canceled")
    azure.blobs.put(azure.tenancy.container, f"{run_id}/a", b"")
    submit(azure, END_AT_THE_SECOND_START, run_id, data=run_id)
    run = azure.runs.wait_for(run_id, "Completed", "Failed", "Canceled")
    assert run.status == ends_as
    assert cluster.preempted == 1
    if restarts:
        assert run.statuses[-5:] == ["Running", "Queued", "Running", "Finalizing", "Completed"]
    elif ends_as == "Failed":
        assert "PreemptionError" in run.document["error"]["error"]["message"]
    blobs = azure.blobs.names(azure.tenancy.container, f"{run_id}/start")
    assert set(blobs) == {f"{run_id}/start{n}" for n in range(1, 3 if restarts else 2)}


@pytest.mark.usefixtures("small")
def test_a_job_inherits_nothing_from_this_process(
    azure: AzureService, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THIS_PROCESS", "1")
    azure.blobs.put(azure.tenancy.container, f"{run_id}/a", b"")
    script = "import os, sys; print('OF_THIS_PROCESS' in os.environ, os.environ['GIVEN'], *sys.argv[1:])"
    environment = {"python": {"userManagedDependencies": True}, "environmentVariables": {"GIVEN": "yes"}}
    longer = "--data=$AZUREML_DATAREFERENCE_data"  # no document says that this is expanded
    submit(azure, script, run_id, longer, "7", data=run_id, environment=environment)
    run = azure.runs.wait_for(run_id, "Completed")
    log = azure.handlers.artifacts.read("ExperimentRun", run.container, "user_logs/std_log.txt").decode()
    inherited, given, data, *arguments = log.splitlines()[0].split()
    assert (inherited, given, arguments) == ("False", "yes", [longer, "7"])
    assert data.endswith("/mounts/data")


@pytest.mark.usefixtures("small")
def test_a_changed_file_must_be_uploaded(azure: AzureService, run_id: str) -> None:
    submit(azure, "", run_id)
    azure.runs.wait_for(run_id, "Completed")
    _, latest = call(azure, "GET", f"{API}/content/v1.0/<WS>/snapshots/latest/metadata")
    body = {"ParentSnapshotId": latest["id"], "DirTreeNode": latest["root"], "FileRevisionList": None}
    url = f"{SNAPSHOTS}/{uuid.uuid4()}"
    assert call(azure, "POST", url, body)[0] == 200
    latest["root"]["children"]["train.py"]["hash"] = "3"
    status, answer = call(azure, "POST", url, body)
    assert (status, "never uploaded" in answer["error"]["message"]) == (400, True)
