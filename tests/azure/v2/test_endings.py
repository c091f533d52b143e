"""The end of a run of SDK v2 is recorded even if the run history does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import V2_TESTS, calls, refused, run_here, submit
from helpers.azure_runs import ServiceRun
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure.outcome import STATUSES
from mnist_cnn.errors import BackendError, RunCancelled

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = V2_TESTS
DETAILS = Fault("GET", r"/history/.*/details$", status=404, times=0)


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("Failed", BackendError, "the service gives no reason"),
        ("Canceled", RunCancelled, "backend.max_duration=120 minutes may be over"),
    ],
)
def test_an_end_that_the_history_does_not_explain_is_recorded(
    azure: AzureService, tmp_path: Path, state: str, error: type[BackendError], said: str
) -> None:
    azure.faults.add(DETAILS)
    made = ServiceRun(azure, tmp_path / "run", "backend.sdk=v2", "backend.resubmit_cancelled=true")
    made.set_state(state)
    explained = ("HTTP 404", "recorded without a reason", said, "resume run")
    refused(made.command("follow"), error.exit_code, *explained)
    assert made.receipt().status is STATUSES[state]


def test_a_cancelled_run_needs_no_explanation(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(DETAILS)
    submit(azure, tmp_path, "backend.sdk=v2", "run_dir=run")
    assert run_here("cancel", "run", cwd=tmp_path).code == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert calls(azure, "GET", "/details") == 0
