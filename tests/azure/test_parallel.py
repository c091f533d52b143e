"""Steps side by side, how often a run is looked at, and its second start. Needs no service and no SDK."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import checks, failures, log, outputs, service, submit, submitter
from mnist_cnn.backends.azure import run as azure_run
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.azure.entry import PROGRESS
from mnist_cnn.backends.azure.parallel import run_parallel
from mnist_cnn.errors import BackendError, RunCancelled, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 20.0
LOGS = {"user_logs/std_log.txt": "https://somewhere/std_log.txt"}


def failing(error: Exception, after: threading.Event | None = None) -> Callable[[], None]:
    def fail() -> None:
        if after is not None:
            assert after.wait(SECONDS)
        raise error

    return fail


def test_steps_are_made_at_the_same_time_and_their_values_keep_their_order() -> None:
    both_are_there = threading.Barrier(2)

    def meet(value: int) -> int:
        both_are_there.wait(SECONDS)
        return value

    assert run_parallel(lambda: meet(1), lambda: meet(2), lambda: None) == [1, 2, None]


def test_of_several_errors_the_first_in_order_is_raised_whichever_came_first_and_all_have_ended() -> None:
    second_failed = threading.Event()

    def second() -> None:
        try:
            raise ValueError("second")
        finally:
            second_failed.set()

    with pytest.raises(KeyError, match="first"):
        run_parallel(failing(KeyError("first"), after=second_failed), second)
    ended = []
    with pytest.raises(ValueError, match="fails"):
        run_parallel(failing(ValueError("fails")), lambda: ended.append(service.call("end", lambda: "it")))
    assert ended == ["it"]


def test_what_nobody_waits_for_any_more_says_nothing_and_calls_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C while a file is sent and the cluster is looked for: no cluster is made after that."""
    is_interrupted, ended, made = threading.Event(), threading.Event(), []
    main = threading.get_ident()

    def look_and_make() -> None:
        try:
            signal.pthread_kill(main, signal.SIGINT)
            service.call("look", lambda: is_interrupted.wait(SECONDS))
            run_parallel(
                lambda: service.report("making it"), lambda: service.call("make it", lambda: made.append(1))
            )
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_parallel(look_and_make)
    is_interrupted.set()
    assert ended.wait(SECONDS)
    assert made == []
    assert capsys.readouterr().err == ""
    service.report("the command itself goes on")
    assert "goes on" in capsys.readouterr().err


class FakeRun:
    """A run of the SDK that counts what it is asked."""

    id = "id"

    def __init__(self, status: str, logs: dict[str, str] = LOGS, why: str = "why") -> None:
        self.status = status
        self.why = why
        self.asked: list[str] = []
        self.logs = logs

    def get_status(self) -> str:
        self.asked.append("status")
        return self.status

    def cancel(self) -> None:
        self.asked.append("cancel")

    def get_portal_url(self) -> str:
        return "https://somewhere/run"

    def get_details(self) -> dict[str, object]:
        self.asked.append("details")
        return {"status": self.status, "logFiles": self.logs, "error": {"message": self.why}}


class Watcher:
    """A run folder's run, looked at as its time passes."""

    def __init__(self, folder: Path, config: AzureConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.followed = azure_run.AzureRun(folder, config)
        self.now = 1.0
        monkeypatch.setattr(self.followed, "workspace", lambda: None)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def look(self, run: FakeRun, times: int, every: float = 2.0) -> list[str]:
        """Ask for the status so many times, a number of seconds apart; return what the run was asked."""
        self.followed.adopt(run)
        run.asked.clear()
        for _ in range(times):
            self.now += every
            self.followed.status()
        return run.asked


@pytest.fixture
def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    config = compose.load(["backend=azure"]).backend
    assert isinstance(config, AzureConfig)
    receipt = run_folder.Receipt("azure", "id", "digest", Status.queued, run_folder.now())
    run_folder.write_receipt(tmp_path, receipt)
    monkeypatch.setattr(log, "fetch", lambda _folder, _run_id, _files: False)
    return Watcher(tmp_path, config, monkeypatch)


def test_a_look_at_a_run_that_goes_on_asks_for_its_state_alone(watcher: Watcher) -> None:
    run = FakeRun("Running")
    assert watcher.look(run, 4) == ["details", "status", "status", "status"]
    run.status = "Finalizing"
    assert watcher.look(run, 2) == ["status", "details", "status"]


def test_a_run_whose_log_is_not_there_yet_is_asked_for_it_at_each_look(watcher: Watcher) -> None:
    run = FakeRun("Running", {"azureml-logs/20_image_build_log.txt": "https://somewhere/else"})
    assert watcher.look(run, 3) == ["details"] * 3


def test_a_run_that_waits_for_a_node_has_no_log_to_ask_for(watcher: Watcher) -> None:
    assert watcher.look(FakeRun("Queued", {}), 3) == ["details", "status", "status"]


def test_the_addresses_of_the_logs_are_asked_for_again_after_a_while(watcher: Watcher) -> None:
    run = FakeRun("Running")
    assert watcher.look(run, 2) == ["details", "status"]
    assert watcher.look(run, 1, every=azure_run.LIST_SECONDS) == ["details"]


def test_a_log_that_cannot_be_had_is_looked_for_again(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "fetch", lambda _folder, _run_id, _files: None)
    assert watcher.look(FakeRun("Running"), 2) == ["details"] * 2


def test_what_was_learned_of_one_run_is_not_entered_for_the_one_that_follows_it(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has entered that it failed, and resumed it."""

    def bring(*_: object) -> None:
        raise outputs.ResultMissing("it has no result")

    monkeypatch.setattr(outputs, "download", bring)
    folder = watcher.followed.folder
    watcher.look(FakeRun("Completed"), 1)
    run_folder.write_receipt(folder, dataclasses.replace(run_folder.read_receipt(folder), id="next"))
    following = FakeRun("Running")
    following.id = "next"
    monkeypatch.setattr(azure_run, "find_run", lambda _workspace, _run_id: following)
    watcher.look(following, 1)
    with pytest.raises(BackendError, match="is running, not completed"):
        watcher.followed.register("m")


def test_a_second_start_that_the_service_refuses_for_ten_minutes_is_abandoned(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service still says where the run stands."""
    asked = []

    def busy(*_: object) -> None:
        asked.append(watcher.now)
        raise service.ServiceError("busy", status=503)

    def sleep(seconds: float) -> None:
        watcher.now += seconds

    monkeypatch.setattr(watcher.followed, "_resubmit_with", busy)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(azure_run, "find_run", lambda _workspace, _run_id: FakeRun("Failed", why="preempted"))
    with pytest.raises(BackendError, match="busy; the preempted run was not submitted again") as given_up:
        watcher.followed.wait()
    assert f"follow {watcher.followed.folder}" in given_up.value.hint
    assert azure_run.OUTAGE_SECONDS < asked[-1] - asked[0] < 1.2 * azure_run.OUTAGE_SECONDS


def test_a_run_that_the_service_queues_again_waits_for_a_node_anew(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node was taken away after it had trained for long, and it takes long until there is another."""
    config = dataclasses.replace(watcher.followed.config, queue_timeout=3000, max_duration=60)
    watcher.followed.config = config
    run = FakeRun("Queued", {})
    ends = {"Queued": 2800.0, "Running": 5600.0, "Paused": 8400.0, "NotResponding": 11200.0, "Canceled": 1e9}

    def sleep(_: float) -> None:
        watcher.now += 20.0
        run.status = next(status for status, end in ends.items() if watcher.now < end)

    watcher.followed.adopt(run)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(RunCancelled):
        watcher.followed.wait()


def test_a_service_that_is_away_for_ten_minutes_ends_the_following_and_not_the_run(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise service.ServiceError("cannot ask for the run's state: away")

    def sleep(seconds: float) -> None:
        watcher.now += seconds

    watcher.look(FakeRun("Running"), 1)
    began = watcher.now
    monkeypatch.setattr(watcher.followed, "workspace", away)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(BackendError, match="away; the run is still running") as raised:
        watcher.followed.wait()
    assert f"follow {watcher.followed.folder}" in raised.value.hint
    assert azure_run.OUTAGE_SECONDS < watcher.now - began < 1.1 * azure_run.OUTAGE_SECONDS
    assert not run_folder.read_receipt(watcher.followed.folder).status.is_final


BEGUN = f"{PROGRESS}{{}}\n"
FAILED_ITSELF = {"error": {"error": {"code": "UserError", "message": "JobFailed: exit code 1"}}}


@pytest.mark.parametrize(
    ("logged", "details", "expected"),
    [
        ("", {"error": {"error": {"message": "The node was Preempted."}}}, failures.Preempted),
        ("", FAILED_ITSELF, BackendError),
        (BEGUN, FAILED_ITSELF, TrainingError),
        (
            BEGUN,
            {"error": {"error": {"message": "the disk of the node died"}}},
            BackendError,
        ),
        ("", {"error": None}, BackendError),
    ],
    ids=["taken-away", "before-the-training", "in-the-training", "node", "no-reason"],
)
def test_a_run_that_fails_without_a_word_of_the_trainer_is_told_by_what_the_service_says(
    tmp_path: Path, logged: str, details: dict[str, Any], expected: type[Exception]
) -> None:
    (tmp_path / "log.txt").write_text(logged)
    error = failures.of_run(tmp_path, details)
    assert type(error) is expected
    assert f"resume {tmp_path}" in error.hint


def test_a_cancellation_that_nobody_here_asked_for_says_who_may_have(watcher: Watcher) -> None:
    watcher.look(FakeRun("Canceled"), 1)
    with pytest.raises(RunCancelled, match="in the studio, or it exceeded"):
        watcher.followed.wait()


def test_pauses_grow_while_nothing_changes_and_are_short_when_something_does(watcher: Watcher) -> None:
    run = FakeRun("Queued", {})
    seconds = 100
    asked = watcher.look(run, 10 * seconds, every=0.1)
    assert seconds / azure_run.SLOW_POLL_SECONDS < len(asked) < seconds / 4
    run.status = "Running"
    watcher.look(run, 1, every=azure_run.SLOW_POLL_SECONDS)
    assert len(watcher.look(run, 6, every=0.1)) == 1  # within 0.6 seconds


def test_a_pool_that_the_sdk_leaves_to_pythons_end_prints_no_traceback() -> None:
    """The pool is one of Python's own, with the pipe gone that its removal writes to, as at Python's end."""
    code = """
import gc
from multiprocessing.pool import ThreadPool
from mnist_cnn.backends.azure import service

class Other:
    def __del__(self):
        raise ValueError("what somebody else's removal raises")

service._silence_sdk()
pool = ThreadPool(1)
pool._change_notifier._writer.close()
other = Other()
del pool, other
gc.collect()
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Pool.__del__" not in ended.stderr
    assert "what somebody else's removal raises" in ended.stderr


OLD = time.time() - submitter.SUBMISSION_SECONDS - 60


@pytest.mark.parametrize(
    ("entry", "is_at_work"),
    [
        (submitter.this_process(), True),
        (submitter.this_process().replace(f" {os.getpid()} ", " 4194305 "), False),  # beyond Linux' largest
        (f"another-machine 1 {OLD} {time.time()}", True),
        (f"another-machine 1 {OLD} {OLD}", False),
        ("damaged", False),
        ("", False),
    ],
    ids=["there", "gone", "elsewhere", "elsewhere-long-ago", "damaged", "none"],
)
def test_a_run_is_being_submitted_as_long_as_its_submitter_is_there_or_may_be(
    entry: str, *, is_at_work: bool
) -> None:
    """Of another machine's only the time is known; writing into the receipt does not prolong it."""
    service = {submitter.SUBMITTER: entry}
    receipt = run_folder.Receipt("azure", "id", "digest", Status.preparing, "now", service=service)
    assert submitter.is_at_work(receipt) is is_at_work


class Absent(Exception):  # noqa: N818 - as the SDK tells it
    status_code = 404


class Lost:
    """A run folder whose run was lost with its node; `answers` are what the service says, one by one.

    The service is made up: what a real one that is away does takes minutes.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = compose.load(["backend=azure"]).backend
        assert isinstance(config, AzureConfig)
        run_folder.write_job(folder, launch.make_job())
        receipt = run_folder.Receipt("azure", "lost", "digest", Status.queued, run_folder.now())
        run_folder.write_receipt(folder, receipt)
        self.before = run_folder.read_receipt(folder)
        self.run = azure_run.AzureRun(folder, config, submit.resubmit)
        self.answers: list[Exception | None] = []
        monkeypatch.setattr(self.run, "workspace", lambda: None)
        monkeypatch.setattr(submit, "_send", lambda _job, _run, _run_id: self._answer())
        monkeypatch.setattr(submit, "find_run", lambda _workspace, run_id: self._find(run_id))
        monkeypatch.setattr(checks, "check_all", lambda _config: None)
        monkeypatch.setattr(submit, "SLOW_POLL_SECONDS", 0.0)

    def start_again(self, *answers: Exception | None) -> run_folder.Receipt:
        self.answers = list(answers)
        submit.resubmit(self.run, "lost", "why")
        return self.receipt()

    def receipt(self) -> run_folder.Receipt:
        return run_folder.read_receipt(self.run.folder)

    def _find(self, run_id: str) -> FakeRun:
        self._answer()
        found = FakeRun("Queued")
        found.id = run_id
        return found

    def _answer(self) -> None:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lost:
    return Lost(tmp_path, monkeypatch)


def test_a_second_start_that_the_service_is_too_busy_for_leaves_the_run_as_it_was(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment it reads as failed, or as one that nobody submits."""
    written, write = [], run_folder.write_receipt

    def note(folder: Path, receipt: run_folder.Receipt) -> None:
        written.append((receipt.id == "lost", receipt.status, submitter.SUBMITTER in receipt.service))
        write(folder, receipt)

    monkeypatch.setattr(run_folder, "write_receipt", note)
    with pytest.raises(service.ServiceError, match="busy"):
        lost.start_again(service.ServiceError("busy", status=503))
    assert lost.receipt() == lost.before
    assert written == [(False, Status.preparing, True), (True, Status.queued, False)]


def test_a_cancellation_that_comes_during_a_second_start_is_kept_where_that_fails(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled_and_busy(*_: object) -> None:
        now = lost.receipt()
        marked = dataclasses.replace(now, service=now.service | {azure_run.CANCELLED: "true"})
        run_folder.write_receipt(lost.run.folder, marked)
        raise service.ServiceError("busy", status=503)

    monkeypatch.setattr(submit, "_send", cancelled_and_busy)
    with pytest.raises(service.ServiceError, match="busy"):
        lost.start_again()
    assert lost.receipt() == dataclasses.replace(lost.before, service={azure_run.CANCELLED: "true"})


def test_a_second_start_that_hears_of_its_cancellation_is_cancelled(lost: Lost) -> None:
    with pytest.raises(RunCancelled):
        lost.start_again(RunCancelled("the run was cancelled before it started"))
    assert lost.receipt().status is Status.cancelled


def test_a_second_start_for_which_this_machine_has_no_room_is_the_end_of_the_run_and_worded(
    lost: Lost,
) -> None:
    with pytest.raises(BackendError, match="cannot write /full: No space left on device"):
        lost.start_again(OSError(errno.ENOSPC, "No space left on device", "/full"))
    assert lost.receipt().status is Status.failed


def test_a_second_start_that_may_yet_be_carried_out_is_not_made_again(lost: Lost) -> None:
    error = failures.SubmissionUnknown("no answer", is_abandoned=True)
    with pytest.raises(failures.SubmissionUnknown) as raised:
        lost.start_again(error, Absent("no such run"))
    assert not raised.value.is_transient
    assert lost.receipt().id != "lost"


def test_a_second_start_that_the_service_refuses_is_the_end_of_the_run(lost: Lost) -> None:
    with pytest.raises(service.ServiceError, match="no"):
        lost.start_again(service.ServiceError("no", status=403))
    assert (lost.receipt().status, lost.receipt().error) == (Status.failed, "no")
    assert lost.receipt().id != "lost"


def test_whether_a_second_start_has_begun_is_found_out_when_the_service_is_back(lost: Lost) -> None:
    receipt = lost.start_again(failures.SubmissionUnknown("no answer"), ConnectionError("away"), None)
    assert (receipt.status, receipt.service["retries"]) == (Status.queued, "1")
    assert (receipt.id != "lost", receipt.url) == (True, "https://somewhere/run")


def test_a_second_start_that_has_not_begun_leaves_the_run_as_it_was(lost: Lost) -> None:
    with pytest.raises(failures.SubmissionUnknown):
        lost.start_again(
            failures.SubmissionUnknown("no answer"),
            ConnectionError("away"),
            Absent("no such run"),
        )
    assert lost.receipt() == lost.before


class FakeExperiment:
    """An experiment of the SDK whose service ends a submission with `status`, and starts the run late."""

    workspace = None

    def __init__(self, status: int | None, looks_until_there: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status = status
        self.looks_left = looks_until_there
        monkeypatch.setattr(submit, "find_run", self.find)
        monkeypatch.setattr(submit, "LATE_START_SECONDS", 0.3)

    def submit(self, *_: object, **__: object) -> None:
        if self.status is None:
            threading.Event().wait(5)
        error = ConnectionError("no answer")
        error.status_code = self.status  # type: ignore[attr-defined]
        raise error

    def find(self, _workspace: object, run_id: str) -> FakeRun:
        self.looks_left -= 1
        if self.looks_left >= 0:
            raise Absent(run_id)
        return FakeRun("Queued")


def test_a_run_that_starts_after_its_submission_has_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    late = FakeExperiment(504, 2, monkeypatch)
    assert submit.start(late, None, "id").id == "id"
    never = FakeExperiment(504, 1000, monkeypatch)
    with pytest.raises(service.ServiceError, match="cannot submit the run: HTTP 504"):
        submit.start(never, None, "id")
    assert never.looks_left < 1000 - 3
    refused = FakeExperiment(403, 1000, monkeypatch)
    with pytest.raises(service.ServiceError, match="cannot submit the run: HTTP 403"):
        submit.start(refused, None, "id")
    assert refused.looks_left == 1000 - 1


def test_a_run_that_starts_after_its_submission_was_given_up_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit, "SUBMIT_SECONDS", 0.1)
    assert submit.start(FakeExperiment(None, 2, monkeypatch), None, "id").id == "id"
    with pytest.raises(failures.SubmissionUnknown) as raised:
        submit.start(FakeExperiment(None, 1000, monkeypatch), None, "id")
    assert raised.value.is_abandoned


def test_a_run_that_has_started_and_is_in_no_receipt_any_more_is_cancelled(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = FakeRun("Queued")
    monkeypatch.setattr(submit, "find_run", lambda _workspace, _run_id: started)
    with pytest.raises(failures.Superseded, match="another process has submitted"):
        submit.record_start(lost.run, started)
    assert started.asked == ["cancel"]
    monkeypatch.setattr(started, "cancel", failing(service.ServiceError("refused", status=403)))
    with pytest.raises(failures.Superseded, match="refused") as raised:
        submit.record_start(lost.run, started)
    assert raised.value.hint == "cancel id in the studio: https://somewhere/run"
    assert lost.receipt() == lost.before


@pytest.mark.parametrize("changed", [{"id": "another"}, {"service": {"cancelled": "true"}}])
def test_a_run_that_another_started_again_or_cancelled_is_not_started(
    lost: Lost, changed: dict[str, Any]
) -> None:
    run_folder.write_receipt(lost.run.folder, dataclasses.replace(lost.before, **changed))
    assert lost.start_again() == dataclasses.replace(lost.before, **changed)
