"""A run's cancellation, and what is learned about a run that the receipt no longer names.

The SDK's run is a stand-in.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.azure_runs import Clock
from helpers.sdk_fakes import FakeRun, NotFoundByService, attach

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure.v1 import service as azure_service
from mnist_cnn.backends.remote import log, outputs, submitter
from mnist_cnn.backends.remote import run as remote_run
from mnist_cnn.backends.remote import state as run_state
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(remote_run, "time", clock)
    monkeypatch.setattr(azure_service, "time", clock)
    monkeypatch.setattr(log, "_piece", lambda *_: b"")
    return clock


def test_a_run_that_does_not_end_is_not_reported_as_cancelled(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK does not say that the service has refused to cancel, so the request is repeated."""
    found = FakeRun()
    began = clock.now
    with pytest.raises(BackendError, match="is still Running 5 minutes after its cancellation") as raised:
        attach(monkeypatch, tmp_path, found).cancel()
    assert f"cancel {tmp_path}" in raised.value.hint
    assert 300 < clock.now - began < 320
    assert 20 < found.cancellations <= 30
    assert not run_folder.read_receipt(tmp_path).status.is_final


def test_an_accepted_cancellation_is_not_requested_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FakeRun()
    found.on_cancel = lambda: setattr(found, "state", "CancelRequested")
    clock.on_sleep = lambda: setattr(found, "state", "Canceled") if clock.now > 100 else None
    attach(monkeypatch, tmp_path, found).cancel()
    assert found.cancellations == 1
    assert run_folder.read_receipt(tmp_path).status is Status.cancelled


@pytest.mark.usefixtures("clock")
def test_a_run_that_was_resumed_meanwhile_is_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has seen the end of the cancelled run first, and started the next one."""
    found = FakeRun()
    run = attach(monkeypatch, tmp_path, found)
    following = dataclasses.replace(run_folder.read_receipt(tmp_path), id="run-2")
    found.on_cancel = lambda: run_folder.write_receipt(tmp_path, following)
    run.cancel()
    assert found.cancellations == 1
    assert run_folder.read_receipt(tmp_path) == following


def test_a_refusal_to_cancel_again_is_an_error(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FakeRun()

    def refuse_the_second() -> None:
        if found.cancellations == 2:
            raise RuntimeError("Response Code: 403")

    found.on_cancel = refuse_the_second
    with pytest.raises(BackendError, match="cannot cancel the run: HTTP 403"):
        attach(monkeypatch, tmp_path, found).cancel()
    assert clock.now < 60


@pytest.mark.usefixtures("clock")
def test_a_run_that_is_still_being_submitted_is_not_reported_as_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = {submitter.SUBMITTER: submitter.this_process()}
    with pytest.raises(BackendError, match="marked as cancelled, but is still being submitted"):
        attach(monkeypatch, tmp_path, NotFoundByService(), **service).cancel()
    assert run_state.CANCELLED in run_folder.read_receipt(tmp_path).service


@pytest.mark.usefixtures("clock")
def test_a_run_without_a_cancel_uri_is_left_to_the_studio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the URI, the SDK only writes into the history, and the job continues."""
    found, without = FakeRun(), FakeRun(cancel_uri=None)
    with pytest.raises(BackendError, match="does not say how to cancel") as raised:
        attach(monkeypatch, tmp_path / "a", without).cancel()
    assert "in the studio: https://ml.azure.com" in raised.value.hint
    assert without.cancellations == 0
    found.on_cancel = lambda: setattr(found, "state", "Canceled")
    attach(monkeypatch, tmp_path / "b", without, found).cancel()
    assert (without.cancellations, found.cancellations) == (0, 1)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("state", ["Running", "Canceled", "Failed", "Completed"])
def test_nothing_of_one_run_is_recorded_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Another process resumes the run while the service answers about the first one."""
    found = FakeRun(state)
    run = attach(monkeypatch, tmp_path, found)
    following = dataclasses.replace(run_folder.read_receipt(tmp_path), id="run-2")
    found.on_details = lambda: run_folder.write_receipt(tmp_path, following)
    monkeypatch.setattr(log, "_piece", lambda *_: b"a line of the first run\n")
    monkeypatch.setattr(run_state, "LOG_SECONDS", -1.0)  # it need not be complete
    monkeypatch.setattr(outputs, "download", lambda *_: pytest.fail("it was downloaded"))
    run.status()
    run._download_result()  # noqa: SLF001 - the run may be superseded between the poll and the download
    assert run_folder.read_receipt(tmp_path) == following
    assert not (tmp_path / run_folder.LOG).exists()
