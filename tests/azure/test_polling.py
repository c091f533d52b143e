"""How often a run is polled, and how its end is found: the real SDK, and runs that no node executes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import SDK_TESTS, refused, succeeded
from helpers.azure_runs import LOG, ORIGIN, Clock, ServiceRun, completed_run
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure.v1 import service as azure_service
from mnist_cnn.backends.remote import run, state
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = SDK_TESTS
OUTAGE_SECONDS = 600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(azure_service, "time", clock)
    return clock


@pytest.fixture
def made(azure: AzureService, tmp_path: Path) -> ServiceRun:
    return ServiceRun(azure, tmp_path / "run")


def test_a_poll_of_a_running_run_asks_for_its_state_alone(made: ServiceRun, clock: Clock) -> None:
    made.begin()
    run = made.attach()
    assert made.polls(run, clock, 4) == ["details", "state", "state", "state"]
    made.set_state("Finalizing")
    assert made.polls(run, clock, 2) == ["details", "state"]


def test_a_log_that_is_not_there_yet_is_asked_for_at_each_poll(made: ServiceRun, clock: Clock) -> None:
    image_log = (ORIGIN, made.run.container, "azureml-logs/20_image_build_log.txt")
    made.azure.handlers.artifacts.write(*image_log, b"built\n")
    made.set_state("Running")
    assert made.polls(made.attach(), clock, 3) == ["details"] * 3
    assert not (made.folder / run_folder.LOG).exists()


def test_a_run_that_waits_for_a_node_has_no_log_to_ask_for(made: ServiceRun, clock: Clock) -> None:
    made.set_state("Queued")
    assert made.polls(made.attach(), clock, 3) == ["details", "state", "state"]


def test_the_addresses_of_the_logs_are_asked_for_again_later(made: ServiceRun, clock: Clock) -> None:
    made.begin()
    run = made.attach()
    assert made.polls(run, clock, 2) == ["details", "state"]
    assert made.polls(run, clock, 1, every=azure_service.LIST_SECONDS) == ["details"]


def test_a_log_that_cannot_be_read_is_looked_for_again(made: ServiceRun, clock: Clock) -> None:
    made.begin()
    made.azure.faults.add(Fault("GET", LOG, status=403, times=0))
    assert made.polls(made.attach(), clock, 2) == ["details"] * 2


def test_pauses_grow_while_nothing_changes(made: ServiceRun, clock: Clock) -> None:
    seconds, run = 100, made.attach()
    made.set_state("Queued")
    asked = made.polls(run, clock, 10 * seconds, every=0.1)
    assert seconds / state.SLOW_POLL_SECONDS < len(asked) < seconds / 4
    made.set_state("Running")
    made.polls(run, clock, 1, every=state.SLOW_POLL_SECONDS)
    assert len(made.polls(run, clock, 6, every=0.1)) == 1  # within 0.6 seconds


def test_what_one_run_ended_in_is_not_recorded_for_the_next(
    made: ServiceRun, azure: AzureService, tmp_path: Path
) -> None:
    """Another process has recorded that it failed, and resumed it."""
    made.set_state("Completed")
    run = made.attach()
    assert run.status() is Status.finalizing
    following = ServiceRun(azure, tmp_path / "next")
    following.begin()
    run_folder.write_receipt(made.folder, dataclasses.replace(made.receipt(), id=following.id))
    with pytest.raises(BackendError, match="is running, not completed"):
        made.attach().register("m")
    with pytest.raises(BackendError, match="not completed"):
        run.register("m")
    assert made.receipt().status is not Status.failed


def test_a_run_that_is_queued_again_waits_for_a_node_anew(
    azure: AzureService, tmp_path: Path, clock: Clock
) -> None:
    """Its node was preempted after it had trained for long, and it takes long until another is free."""
    made = ServiceRun(azure, tmp_path / "run", "backend.queue_timeout=3000", "backend.max_duration=60")
    made.set_state("Queued")
    ends = {"Queued": 2800.0, "Running": 5600.0, "Paused": 8400.0, "NotResponding": 11200.0, "Canceled": 1e9}

    def advance() -> None:
        clock.now += 200.0
        state = next(state for state, end in ends.items() if clock.now < end)
        if made.run.status != state:
            made.set_state(state)

    clock.on_sleep = advance
    with pytest.raises(RunCancelled):
        made.attach().wait()


def test_an_outage_of_ten_minutes_ends_following_and_not_the_run(made: ServiceRun, clock: Clock) -> None:
    made.begin()
    run = made.attach()
    run.status()
    began = clock.now
    made.azure.faults.add(Fault("GET", "/history/.*/runs/", status=403, times=0))
    with pytest.raises(BackendError, match="403") as raised:
        run.wait()
    assert f"follow {made.folder}" in raised.value.hint
    assert OUTAGE_SECONDS < clock.now - began < 1.1 * OUTAGE_SECONDS
    assert not made.receipt().status.is_final


def test_a_cancellation_in_the_studio_is_exit_6_and_says_why(made: ServiceRun) -> None:
    made.begin()
    made.set_state("Canceled")
    followed = made.command("follow")
    refused(followed, RunCancelled.exit_code, "outside of this program", "resume run")
    assert made.receipt().status is Status.cancelled
    assert not (made.folder / run_folder.RESULT).exists()


def test_an_unknown_state_counts_as_running(made: ServiceRun, azure: AzureService) -> None:
    made.set_state("Meditating")
    status = made.command("status", "--json")
    assert status.json()["status"] == "running"
    assert "Meditating" in status.err
    azure.requests.clear()  # no document knows of this state


def test_a_run_is_finalizing_until_its_result_is_here(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    made = completed_run(azure, tmp_path / "run", small_run)
    assert made.command("status", "--json").json()["status"] == "finalizing"
    assert "download its result: python -m mnist_cnn follow " in made.command("status").out
    succeeded(made.command("follow"))
    assert made.command("status", "--json").json()["status"] == "completed"


def test_a_completed_run_without_a_result_has_failed(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    made = completed_run(azure, tmp_path / "run", small_run)
    azure.handlers.artifacts.delete(ORIGIN, made.run.container, "outputs/result.json")
    refused(made.command("follow"), BackendError.exit_code, "outputs/ has no result.json", "resume run")
    assert made.receipt().status is Status.failed


def test_the_error_is_read_from_a_log_that_is_refused_at_first(made: ServiceRun) -> None:
    made.fail("division by zero", ConfigurationError.exit_code)
    made.azure.faults.add(Fault("GET", "prefix/contentinfo", status=403, times=3))
    refused(made.command("follow"), ConfigurationError.exit_code, "division by zero")


def test_refused_polls_do_not_end_following(azure: AzureService, small_run: Path, tmp_path: Path) -> None:
    made = completed_run(azure, tmp_path / "run", small_run)
    state = f"/runs/{made.id}$"
    azure.faults.add(
        Fault("GET", "/details$", status=403),
        Fault("GET", "prefix/contentinfo", occurrence=2, status=403),
        Fault("GET", LOG, status=403),
        Fault("GET", state, occurrence=2, kind="drop"),
        Fault("GET", state, occurrence=4, status=403, times=2),
    )
    assert "test accuracy" in succeeded(made.command("follow"), "403").out


def test_a_workspace_that_is_not_found_loses_no_run(azure: AzureService, made: ServiceRun) -> None:
    made.begin()
    azure.faults.add(Fault("GET", "workspaces/loopback-workspace$", status=404, times=0))
    for command in ("follow", "resume"):
        refused(made.command(command), BackendError.exit_code, "cannot open the workspace")
    azure.faults.clear()
    refused(made.command("resume"), ConfigurationError.exit_code)  # it is still running
    assert made.receipt().id == made.id


def test_a_result_is_kept_of_a_run_that_failed_after_its_training(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    """The service fails a run whose last metrics it could not take. A damaged result does not count."""
    made = ServiceRun(azure, tmp_path / "run", job=run_folder.read_job(small_run))
    made.end(small_run, "Failed", "the metrics could not be taken")
    azure.faults.add(Fault("GET", r"/artifacts/ExperimentRun/[^/]+$", status=403, times=0))
    refused(made.command("follow"), BackendError.exit_code, "HTTP 403", "the service keeps", "follow run")
    assert made.receipt().status is not Status.failed
    azure.faults.clear()
    succeeded(made.command("follow"))
    assert run_folder.read_result(made.folder) is not None

    damaged = ServiceRun(azure, tmp_path / "damaged", job=run_folder.read_job(small_run))
    damaged.end(small_run, "Failed", "the metrics could not be taken")
    damaged.write_output("history.png", (small_run / "history.png").read_bytes()[:-1])
    refused(damaged.command("follow"), BackendError.exit_code, "the run failed in the service")
    assert damaged.receipt().status is Status.failed


def test_metrics_that_cannot_be_read_do_no_harm(azure: AzureService, small_run: Path, tmp_path: Path) -> None:
    made = completed_run(azure, tmp_path / "run", small_run)
    azure.faults.add(Fault("POST", "/metric/v2.0.*/(list|full)$", status=403, times=0))
    succeeded(made.command("follow"))
    assert made.receipt().status is Status.completed
