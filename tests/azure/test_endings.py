"""How a run ended, as far as the service's answers tell it. Answers are as recorded from the real one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import (
    BOTH_SDKS,
    FAILS_ON_A_NODE,
    LOOPBACK_TESTS,
    refused,
    submissions,
    succeeded,
    train,
)
from helpers.azure_runs import ORIGIN, ServiceRun
from helpers.processes import result_of
from loopback import node_logs, run_errors

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import service
from mnist_cnn.backends.remote.node import PROGRESS
from mnist_cnn.errors import BackendError, RunCancelled, TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService
    from loopback.compute import Cluster

pytestmark = [*LOOPBACK_TESTS, BOTH_SDKS]
ONE_NODE = {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT120S"}


def test_a_trainer_that_ends_silently_has_failed(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    """The log has no error. With SDK v1, only a warning has the service's reason."""
    (tmp_path / "net.py").write_text(FAILS_ON_A_NODE.format(error="SystemExit(3)"))
    ended = train(azure, tmp_path, sdk, "model.file=net.py", "run_dir=run")
    said = {"v1": "User program failed with SystemExit: 3", "v2": "exited with status code 3"}[sdk[-2:]]
    refused(ended, TrainingError.exit_code, said, "resume run")
    assert submissions(azure) == 1


# -- a run that the service cancelled ------------------------------------------------------------------------


@pytest.fixture
def cluster(azure: AzureService) -> Cluster:
    """A cluster of one Spot node."""
    return azure.clusters.add("spot", vmPriority="LowPriority", scaleSettings=ONE_NODE)


def cancelled_run(azure: AzureService, folder: Path, *overrides: str) -> ServiceRun:
    """Return a run that trained on the Spot node until the service cancelled it."""
    made = ServiceRun(azure, folder, "backend.cluster=spot", *overrides)
    made.begin()
    made.set_state("Canceled")
    return made


def test_an_eviction_that_the_nodes_show_is_no_cancellation(
    azure: AzureService, tmp_path: Path, cluster: Cluster, sdk: str
) -> None:
    cluster.preempted = 1
    made = cancelled_run(azure, tmp_path / "run", sdk)
    shown = made.command("status", "--json")
    assert shown.json()["status"] == "queued"
    assert "the node was preempted" in shown.err
    assert not made.receipt().status.is_final


@pytest.mark.usefixtures("cluster")
def test_a_cancellation_that_may_be_an_eviction_says_so(
    azure: AzureService, tmp_path: Path, sdk: str
) -> None:
    made = cancelled_run(azure, tmp_path / "run", sdk)
    refused(
        made.command("follow"), RunCancelled.exit_code, "outside of this program", "eviction", "resume run"
    )
    assert "backend.resubmit_cancelled=true" in str(made.receipt().error)
    assert submissions(azure) == 0


@pytest.mark.usefixtures("cluster")
def test_a_cancellation_is_submitted_again_if_the_user_wants_that(
    azure: AzureService, tmp_path: Path, sdk: str
) -> None:
    made = cancelled_run(azure, tmp_path / "run", sdk, "backend.resubmit_cancelled=true")
    assert made.command("status", "--json").json()["status"] == "queued"


def test_a_cancellation_on_a_dedicated_node_is_no_eviction(
    azure: AzureService, tmp_path: Path, sdk: str
) -> None:
    azure.clusters.add("spot").preempted = 1
    made = cancelled_run(azure, tmp_path / "run", sdk)
    refused(made.command("follow"), RunCancelled.exit_code, "outside of this program", "resume run")
    assert "eviction" not in str(made.receipt().error)


@pytest.mark.usefixtures("cluster")
def test_a_run_that_took_too_long_is_not_submitted_again(
    azure: AzureService, tmp_path: Path, sdk: str
) -> None:
    made = ServiceRun(azure, tmp_path / "run", sdk, "backend.cluster=spot", "backend.resubmit_cancelled=true")
    made.begin()
    made.run.document["startTimeUtc"] = "2026-01-01T00:00:00.00000Z"
    made.set_state("Canceled")
    refused(made.command("follow"), RunCancelled.exit_code, "backend.max_duration=120 minutes is over")


# -- an image that isn't ready -------------------------------------------------------------------------------


def test_a_failed_image_is_explained_by_its_log(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    made = ServiceRun(azure, tmp_path / "run", sdk)
    log = "Step 7/12\nERROR: Cannot install a and b: conflicting dependencies\nERROR: ResolutionImpossible\n"
    azure.handlers.artifacts.write(ORIGIN, made.run.container, node_logs.IMAGE_LOG, log.encode())
    azure.runs.advance(made.run, "Failed", run_errors.image_build())
    refused(made.command("follow"), BackendError.exit_code, "Image build failed", "Cannot install a and b")


def test_a_run_whose_image_is_being_built_lacks_no_node(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdk: str
) -> None:
    made = ServiceRun(azure, tmp_path / "run", sdk)
    limits = dataclasses.replace(made.backend.service().limits, queue_seconds=1, prepare_seconds=1)
    monkeypatch.setattr(service, "Limits", lambda *_, **__: limits)
    made.set_state("Preparing")
    ended = made.command("follow")
    refused(ended, BackendError.exit_code, "after 1 seconds: the service may be building the image")
    assert "node" not in ended.err.partition("error: ")[2]


# -- a node that was lost as it uploaded the result ----------------------------------------------------------

CONFLICT = "UserError: Resource Conflict: ArtifactId ExperimentRun/dcid.x/outputs/result.json already exists."


@pytest.mark.parametrize("damage", ["none", "missing", "of another attempt"])
def test_a_result_is_used_if_it_is_whole_and_of_one_attempt(
    azure: AzureService, small_run: Path, tmp_path: Path, damage: str, sdk: str
) -> None:
    made = ServiceRun(azure, tmp_path / "run", sdk, job=run_folder.read_job(small_run))
    made.write_outputs(small_run)
    if damage == "missing":  # the service knows its name, but the node was lost before its content was sent
        azure.blobs.delete("azureml", f"{ORIGIN}/{made.run.container}/outputs/model.onnx")
    elif damage == "of another attempt":
        made.write_output("model.onnx", (small_run / "model.onnx").read_bytes() + b"?")
    made.write_log(f"{PROGRESS}{{}}\n")
    made.set_state("Failed", CONFLICT)
    ended = made.command("follow")
    if damage == "none":
        said = (
            "a node was lost while it uploaded the result",
            "every file matches the checksum",
            "Resource Conflict",
        )
        succeeded(ended, *said)
        assert "(Failed)" not in ended.err
        run_folder.verify(made.folder, result_of(made.folder))
    else:
        refused(ended, BackendError.exit_code, "a node was lost while it uploaded the result", "resume run")
        assert not (made.folder / "result.json").exists()
