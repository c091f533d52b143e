"""Submissions that fail half-way, and the resubmission of a run whose node was preempted.

The runs are real runs of the loopback service, on a cluster without a free node.
"""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import SDK_TESTS, calls, refused, run_here, submissions, submit, succeeded
from helpers.azure_runs import Clock, ServiceRun, preempted_run
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import resubmission, snapshot, submission
from mnist_cnn.backends.remote import run as remote_run
from mnist_cnn.backends.remote.failures import SubmissionUnknown, Superseded
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.backends.remote.submitter import SUBMITTER
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loopback import AzureService
    from loopback.messages import Request

    from mnist_cnn.receipt import Receipt

pytestmark = [*SDK_TESTS, pytest.mark.usefixtures("impatient")]
RUN = r"/history/.*/runs/[^/]+$"
BUSY = Fault("GET", "/computes/", status=503, times=0)
ABSENCE = (Fault("GET", RUN, status=403), Fault("GET", RUN, occurrence=2, status=503, times=4))
"""The service cannot be asked for a run for a while."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, of the SDK and of the backend."""
    from azureml._restclient import clientbase

    monkeypatch.setattr(clientbase, "DEFAULT_503_BACKOFF", 0)
    monkeypatch.setattr(resubmission, "SLOW_POLL_SECONDS", 0.0)
    monkeypatch.setattr(submission, "LATE_START_SECONDS", 0.3)


@pytest.fixture
def lost(azure: AzureService, tmp_path: Path) -> ServiceRun:
    azure.clusters.behave(full=True)
    return preempted_run(azure, tmp_path / "run")


def resubmit(lost: ServiceRun, *faults: Fault) -> None:
    """Submit a run again; the faults begin when its status is known."""
    run = lost.attach()
    run.status()
    lost.azure.faults.add(*faults)
    resubmission.resubmit(run.folder, run.service, lost.id, "why")


@pytest.fixture
def at_request(azure: AzureService) -> Any:
    """Add an action that runs before the service answers a request whose path ends as given."""
    added: list[Callable[[Request], None]] = []

    def add(method: str, ending: str, act: Callable[[], object]) -> None:
        def on_request(request: Request) -> None:
            if request.method == method and request.path.endswith(ending):
                act()

        added.append(on_request)
        azure.server.listeners.append(on_request)

    yield add
    for on_request in added:
        azure.server.listeners.remove(on_request)


def change_receipt(lost: ServiceRun, **changes: Any) -> None:
    now = lost.receipt()
    changes["service"] = now.service | changes.get("service", {})
    run_folder.write_receipt(lost.folder, dataclasses.replace(now, **changes))


def test_a_service_that_is_too_busy_leaves_the_run_as_it_was(
    lost: ServiceRun, azure: AzureService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt never says that the run failed, or that no process submits it."""
    written, write = [], run_folder.write_receipt

    def note(folder: Path, receipt: Receipt) -> None:
        written.append((receipt.id == lost.id, receipt.status, SUBMITTER in receipt.service))
        write(folder, receipt)

    monkeypatch.setattr(run_folder, "write_receipt", note)
    azure.faults.add(BUSY)
    with pytest.raises(ServiceError):
        resubmit(lost)
    assert lost.receipt() == lost.before
    assert written == [(False, Status.preparing, True), (True, Status.queued, False)]
    assert submissions(azure) == 0


def test_a_cancellation_during_a_failing_resubmission_is_kept(
    lost: ServiceRun, azure: AzureService, at_request: Any
) -> None:
    azure.faults.add(BUSY)
    at_request("GET", "/computes/traincluster", lambda: change_receipt(lost, service={"cancelled": "true"}))
    with pytest.raises(ServiceError):
        resubmit(lost)
    service = lost.before.service | {"cancelled": "true"}
    assert lost.receipt() == dataclasses.replace(lost.before, service=service)


def test_a_resubmission_hears_of_its_cancellation(
    lost: ServiceRun, azure: AzureService, at_request: Any
) -> None:
    at_request("PUT", "/job.json", lambda: change_receipt(lost, service={"cancelled": "true"}))
    with pytest.raises(RunCancelled):
        resubmit(lost)
    assert lost.receipt().status is Status.cancelled
    assert submissions(azure) == 0


def test_a_resubmission_without_room_here_ends_the_run(
    lost: ServiceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/full")

    monkeypatch.setattr(snapshot, "write", write)
    with pytest.raises(BackendError, match="cannot write /full: No space left on device"):
        resubmit(lost)
    assert lost.receipt().status is Status.failed


def test_a_refused_resubmission_ends_the_run(lost: ServiceRun, azure: AzureService) -> None:
    azure.faults.add(Fault("POST", "snapshotrun", status=400, times=0))
    with pytest.raises(ServiceError, match="HTTP 400"):
        resubmit(lost)
    assert lost.receipt().status is Status.failed
    assert lost.receipt().id != lost.id


def test_a_resubmission_that_may_yet_be_done_is_not_made_again(
    lost: ServiceRun, azure: AzureService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SUBMIT_SECONDS", 0.2)
    faults = Fault("POST", "snapshotrun", kind="delay", seconds=3), Fault("GET", RUN, status=404, times=0)
    with pytest.raises(SubmissionUnknown):
        resubmit(lost, *faults)
    assert lost.receipt().id != lost.id
    assert submissions(azure) <= 1


def test_a_started_resubmission_is_found_when_the_service_is_back(lost: ServiceRun) -> None:
    resubmit(lost, Fault("PATCH", "/runs/", status=403), *ABSENCE)
    receipt = lost.receipt()
    assert (receipt.status, receipt.service["retries"]) == (Status.queued, "1")
    assert receipt.id != lost.id
    assert receipt.url != lost.before.url


def test_a_resubmission_that_has_not_begun_leaves_the_run_as_it_was(lost: ServiceRun) -> None:
    with pytest.raises(SubmissionUnknown):
        resubmit(lost, Fault("POST", "snapshotrun", status=403, times=0), *ABSENCE)
    assert lost.receipt() == lost.before


@pytest.mark.parametrize("changes", [{"id": "another"}, {"service": {"cancelled": "true"}}])
def test_a_run_that_another_process_changed_is_not_submitted(
    lost: ServiceRun, azure: AzureService, changes: dict[str, Any]
) -> None:
    run = lost.attach()
    run.status()
    change_receipt(lost, **changes)
    before = lost.receipt()
    resubmission.resubmit(run.folder, run.service, lost.id, "why")
    assert lost.receipt() == before
    assert submissions(azure) == 0


@pytest.mark.parametrize("is_refused", [False, True], ids=["cancelled", "refused"])
def test_a_started_run_that_no_receipt_names_is_cancelled(
    lost: ServiceRun, azure: AzureService, at_request: Any, *, is_refused: bool
) -> None:
    def resubmitted_elsewhere() -> None:
        change_receipt(lost, id="another")
        if is_refused:
            azure.faults.add(Fault("GET", RUN, status=403, times=0))

    at_request("POST", "/snapshotrun", resubmitted_elsewhere)
    with pytest.raises(Superseded) as raised:
        resubmit(lost)
    started = azure.runs.all()[-1]
    assert started.run_id != lost.id
    assert ("CancelRequested" in started.statuses) != is_refused
    assert (f"cancel {started.run_id} in the studio" in raised.value.hint) == is_refused
    assert lost.receipt().id == "another"


def test_a_resubmission_is_given_up_after_ten_minutes(
    lost: ServiceRun, azure: AzureService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service reports the state of the run, but cannot start it."""
    clock = Clock()
    monkeypatch.setattr(remote_run, "time", clock)
    monkeypatch.setattr(resubmission, "time", clock)
    monkeypatch.setattr(resubmission, "SLOW_POLL_SECONDS", 250.0)
    azure.faults.add(BUSY)
    with pytest.raises(BackendError) as raised:
        lost.attach().wait()
    assert f"follow {lost.folder}" in raised.value.hint
    assert 600 < clock.now < 900
    assert lost.receipt() == lost.before


def test_a_preempted_run_is_submitted_no_more_often_than_asked(azure: AzureService, tmp_path: Path) -> None:
    made = preempted_run(azure, tmp_path / "run", "backend.preemption_retries=1", retries="1")
    refused(made.command("follow"), BackendError.exit_code, "pre-empted", "resume run")
    assert submissions(azure) == 0
    assert made.receipt().status is Status.failed


def test_a_training_that_failed_is_not_submitted_again(azure: AzureService, tmp_path: Path) -> None:
    made = ServiceRun(azure, tmp_path / "run", "backend.priority=lowpriority")
    made.fail("division by zero", ConfigurationError.exit_code)
    refused(made.command("follow"), ConfigurationError.exit_code, "division by zero")
    assert submissions(azure) == 0


def test_a_preempted_run_can_be_cancelled(lost: ServiceRun, azure: AzureService) -> None:
    succeeded(lost.command("cancel"))
    assert lost.receipt().status is Status.cancelled
    assert lost.command("follow").code == RunCancelled.exit_code
    assert submissions(azure) == 0


def test_a_preempted_run_waits_for_the_machine_that_began_it(lost: ServiceRun, azure: AzureService) -> None:
    assert lost.command("status", "--json").json()["status"] == "queued"
    change_receipt(lost, versions={**lost.before.versions, "keras": "3.14.9"})
    elsewhere = lost.receipt()
    refused(lost.command("follow"), BackendError.exit_code, "(was 3.14.9)", "resume run")
    assert lost.receipt() == elsewhere
    assert submissions(azure) == 0


def test_a_lost_answer_to_the_submission_makes_one_run(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("POST", "snapshotrun", kind="lose-answer"))
    submit(azure, tmp_path, "run_dir=run")
    assert len({e.query["runId"] for e in azure.requests.exchanges() if "snapshotrun" in e.template}) == 1
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("PATCH", "/runs/", status=403),),
        (Fault("PATCH", "/runs/", status=503, times=0), Fault("GET", RUN, status=404, times=2)),
        (Fault("POST", "snapshotrun", kind="delay", seconds=3), Fault("GET", RUN, status=404, times=2)),
    ],
    ids=["before it fails", "after it fails", "after it is given up"],
)
def test_a_run_that_starts_although_its_submission_fails_is_found(
    azure: AzureService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    if faults[0].kind == "delay":
        monkeypatch.setattr(submission, "SUBMIT_SECONDS", 0.5)
    azure.faults.add(*faults)
    assert "\nthe run has started\n" in submit(azure, tmp_path, "run_dir=run").err
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    if faults[0].kind == "delay":
        azure.requests.wait_for("PATCH", "/runs/")  # from the abandoned call; it must not hit the next test


def test_a_submission_of_which_nothing_is_known_is_found_later(azure: AzureService, tmp_path: Path) -> None:
    # An abandoned request of the test before may still come, so a fault must not be for one request.
    refusals = (Fault("PATCH", "/runs/", status=403, times=0), Fault("GET", RUN, status=403, times=0))
    azure.faults.add(*refusals)
    refused(submit(azure, tmp_path, "run_dir=run"), BackendError.exit_code, "cancel run")
    assert run_folder.read_receipt(tmp_path / "run").url is None
    azure.faults.clear()
    status = run_here("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "queued"


@pytest.mark.parametrize(("status", "looks"), [(503, 3), (403, 1)], ids=["busy", "refused"])
def test_a_failed_submission_is_looked_for_while_it_may_start(
    azure: AzureService, tmp_path: Path, status: int, looks: int
) -> None:
    azure.faults.add(Fault("POST", "snapshotrun", status=status, times=0))
    ended = submit(azure, tmp_path, "run_dir=run")
    refused(ended, BackendError.exit_code, f"cannot submit the run: HTTP {status}", "resume run")
    asked = calls(azure, "GET", "/history/v1.0<WS>/runs/{run}")
    assert asked == 1 if looks == 1 else asked >= looks
