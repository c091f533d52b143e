"""Why a run of SDK v2 has ended, and that its end is recorded. No node trains: the tests end the runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import V2_TESTS, calls, chosen_v2, refused, run_here, submit
from loopback import Fault, node_logs, run_errors

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, RunCancelled

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.processes import Ended
    from loopback import AzureService
    from loopback.history import Run

pytestmark = V2_TESTS
ONE_NODE = {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT120S"}
DETAILS = Fault("GET", r"/history/.*/details$", status=404, times=0)


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A run that waits for a Spot node which the cluster does not get."""

    azure: AzureService
    home: Path
    run: Run

    def command(self, *words: str) -> Ended:
        return run_here(words[0], "run", *words[1:], cwd=self.home)

    def receipt(self) -> run_folder.Receipt:
        return run_folder.read_receipt(self.home / "run")


@pytest.fixture
def submitted(azure: AzureService, tmp_path: Path) -> Submitted:
    azure.clusters.add("spot", vmPriority="LowPriority", scaleSettings=ONE_NODE)
    submit(azure, tmp_path, "run_dir=run", "backend.cluster=spot", chosen=chosen_v2)
    return Submitted(azure, tmp_path, azure.runs[run_folder.read_receipt(tmp_path / "run").id])


@pytest.mark.parametrize("evicted", [0, 1])
def test_a_cancellation_is_an_eviction_if_the_nodes_show_one(submitted: Submitted, evicted: int) -> None:
    submitted.azure.clusters["spot"].preempted = evicted
    submitted.azure.runs.advance(submitted.run, "Canceled")
    if evicted:
        shown = submitted.command("status", "--json")
        assert shown.json()["status"] == "queued"
        assert "the node was preempted" in shown.err
        return
    said = ("outside of this program", "eviction", "backend.resubmit_cancelled=true", "resume run")
    refused(submitted.command("follow"), RunCancelled.exit_code, *said)
    assert submitted.receipt().status is Status.cancelled


def test_a_failed_image_is_explained_by_its_log(submitted: Submitted) -> None:
    log = b"Step 7/12\nERROR: Cannot install a and b: conflicting dependencies\nERROR: ResolutionImpossible\n"
    azure, run = submitted.azure, submitted.run
    azure.handlers.artifacts.write("ExperimentRun", run.container, node_logs.IMAGE_LOG, log)
    azure.runs.advance(run, "Failed", run_errors.image_build())
    said = ("Image build failed", "Cannot install a and b")
    refused(submitted.command("follow"), BackendError.exit_code, *said)


@pytest.mark.parametrize(
    ("state", "status", "error"),
    [("Failed", Status.failed, BackendError), ("Canceled", Status.cancelled, RunCancelled)],
)
def test_an_end_that_the_history_does_not_explain_is_recorded(
    submitted: Submitted, state: str, status: Status, error: type[BackendError]
) -> None:
    submitted.azure.faults.add(DETAILS)
    submitted.azure.runs.advance(submitted.run, state)
    refused(
        submitted.command("follow"), error.exit_code, "HTTP 404", "recorded without a reason", "resume run"
    )
    assert submitted.receipt().status is status


def test_a_cancelled_run_needs_no_explanation(submitted: Submitted) -> None:
    submitted.azure.faults.add(DETAILS)
    assert submitted.command("cancel").code == 0
    assert submitted.receipt().status is Status.cancelled
    assert calls(submitted.azure, "GET", "/details") == 0
