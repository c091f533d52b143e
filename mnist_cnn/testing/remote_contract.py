"""Tests for every `RemoteBackend`, in addition to BackendContract."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import checkpoints
from mnist_cnn.backends.remote.log import NEXT_LOG
from mnist_cnn.backends.remote.parallel import start_thread
from mnist_cnn.backends.remote.run import RemoteRun
from mnist_cnn.backends.remote.state import CANCELLED, RESTARTS
from mnist_cnn.errors import BackendError, RunCancelled
from mnist_cnn.testing.fixtures import LONG, Contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Service
    from mnist_cnn.result import Result
    from mnist_cnn.testing.fixtures import Submit

JOB = ("train.epochs=3",)
"""Overrides for epochs before and after the node's loss."""
LOST_AT = "epoch 2/"
"""The log line where a run loses its node."""
ABSENT_POLLS = 2
WAIT_SECONDS = 180.0
FOLLOWER = """
import sys
from pathlib import Path
from mnist_cnn import launch

run = launch.attach_to(Path(sys.argv[1]), sys.argv[2:])
print("ready", flush=True)
sys.stdin.readline()
print(run.wait().to_json())
"""
"""A process that follows a run.

It begins as soon as it reads a line.
"""


class FaultInjector(Protocol):
    """Injects faults into a service.

    Each fault happens once; then the service works again. A method that this service has no way to do calls
    `pytest.skip` with the reason.
    """

    def starts(self) -> list[str]:
        """Return the ids of all started runs, in order.

        A run that the service started twice is listed twice; one that it requeued by itself is not.
        """

    def lose_next_response(self) -> None:
        """Carry out the next start, but lose the answer."""

    def fail_next_polls(self, polls: int) -> None:
        """Don't answer this many requests for a run's state."""

    def lose_next_node(self, line: str, *, requeues: bool) -> None:
        """Take the node from the next run.

        That happens when the run logs a line with this text. If the service `requeues`, it starts the run
        again under its id; if not, the run has ended.
        """

    def damaged(self, run_id: str, name: str) -> AbstractContextManager[None]:
        """Damage an ended run's output file in a context."""

    def reset(self) -> None:
        """Forget the faults that have not happened."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """How the download of a damaged file ended.

    The error, the receipt's status, and the folder's files.
    """

    error: BackendError
    status: Status
    files: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Resubmitted:
    """A run that lost its node for good.

    Two processes followed it; `here` and `elsewhere` are what they got.
    """

    run: RemoteRun
    first_id: str
    starts: tuple[str, ...]
    here: str
    elsewhere: str


class Watched:
    """A service that calls `act` before one method."""

    def __init__(self, service: Service, method: str, act: Callable[[], object]) -> None:
        self._service, self._method, self._act = service, method, act

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._act()
        return getattr(self._service, name)


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for an event; fail after three minutes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def has_ended(run: RemoteRun) -> bool:
    """Return whether the service has ended a run."""
    seen = run.service.find(run.handle)
    return seen is not None and seen.status.is_final


def start_again(run: RemoteRun) -> None:
    """Start a run that was started before.

    Does so like a process that knows nothing of that start.
    """
    service, handle = run.service, run.handle
    request = service.request(run_folder.read_job(run.folder))
    with service.prepare(handle, request) as prepared:
        service.start(handle, request, prepared)


def check_continued(run: RemoteRun, undisturbed: Result) -> None:
    """Check that a run survived its node's loss.

    It has the same weights, and its log has both starts.
    """
    result = run.wait()
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert [row.epoch for row in result.history] == [1, 2, 3]
    first, second = (run.folder / run_folder.LOG).read_text().split(NEXT_LOG.decode())
    assert "mnist_cnn" in first
    assert "resuming after epoch" in second


def check_cancelled(run: RemoteRun, faults: FaultInjector) -> None:
    """Check that a run started once and is cancelled.

    Checks it here and in the service.
    """
    assert run.status() is Status.cancelled
    assert run_folder.read_receipt(run.folder).status is Status.cancelled
    seen = run.service.find(run.handle)
    assert seen is not None
    assert seen.status is Status.cancelled
    assert faults.starts().count(run.handle.id) == 1
    with pytest.raises(RunCancelled):
        run.wait()


class RemoteContract(Contract):
    """The promises of `Service`, tested with a disturbed service.

    A subclass has the fixture `faults` too.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def faults(cls) -> FaultInjector:
        """Return a fault injector for the overrides' service."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _reset(self, faults: FaultInjector) -> Iterator[None]:
        yield
        faults.reset()

    @pytest.fixture(scope="class")
    @classmethod
    def submit_remote(cls, submit: Submit) -> Callable[..., RemoteRun]:
        """Return a function that submits the small job.

        Its argument is the end of the run folder's name.
        """

        def submit_remote(name: str, *more: str) -> RemoteRun:
            run = submit(f"remote-{name}", *more)
            assert isinstance(run, RemoteRun)
            return run

        return submit_remote

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, submit_remote: Callable[..., RemoteRun]) -> RemoteRun:
        """A run that was started again twice.

        It was started again at once and after its end; its result is still there.
        """
        run = submit_remote("ended", *JOB)
        start_again(run)
        wait_until(lambda: has_ended(run))
        start_again(run)
        return run

    @pytest.fixture(scope="class")
    @classmethod
    def refusals(
        cls, ended: RemoteRun, overrides: tuple[str, ...], faults: FaultInjector
    ) -> dict[str, Refusal]:
        """Failures to follow the ended run, by damaged file."""
        refusals = {}
        for name in ("model.keras", run_folder.RESULT):
            with faults.damaged(ended.handle.id, name), pytest.raises(BackendError) as raised:
                launch.attach_to(ended.folder, overrides).wait()
            files = frozenset(path.name for path in ended.folder.iterdir())
            refusals[name] = Refusal(raised.value, run_folder.read_receipt(ended.folder).status, files)
        return refusals

    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(
        cls, refusals: dict[str, Refusal], ended: RemoteRun, overrides: tuple[str, ...]
    ) -> Result:
        """The ended run's result, with all files intact again."""
        assert refusals
        return launch.attach_to(ended.folder, overrides).wait()

    @pytest.fixture(scope="class")
    @classmethod
    def unanswered(cls, submit_remote: Callable[..., RemoteRun], faults: FaultInjector) -> RemoteRun:
        """A run whose start was not answered."""
        faults.lose_next_response()
        return submit_remote("unanswered", *JOB)

    @pytest.fixture(scope="class")
    @classmethod
    def resubmitted(
        cls, submit_remote: Callable[..., RemoteRun], overrides: tuple[str, ...], faults: FaultInjector
    ) -> Resubmitted:
        before = len(faults.starts())
        faults.lose_next_node(LOST_AT, requeues=False)
        run = submit_remote("resubmitted", *JOB)
        first_id = run.handle.id
        wait_until(lambda: has_ended(run))
        command = [sys.executable, "-P", "-c", FOLLOWER, str(run.folder), *overrides]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            result = start_thread(run.wait)
            elsewhere, _ = other.communicate("go\n", timeout=WAIT_SECONDS)
        here = result.result(WAIT_SECONDS).to_json()
        return Resubmitted(run, first_id, tuple(faults.starts()[before:]), here, elsewhere)

    @pytest.fixture
    def cancel_before(
        self, monkeypatch: pytest.MonkeyPatch, home: Path, overrides: tuple[str, ...]
    ) -> Callable[[str, str], list[Future[None]]]:
        """Return a function that lets another user cancel first.

        The service waits for that before it does a method.
        """

        def cancel_before(method: str, name: str) -> list[Future[None]]:
            folder, cancellations = home / f"remote-{name}", []

            def cancel() -> None:
                cancellations.append(start_thread(lambda: launch.attach_to(folder, overrides).cancel()))
                wait_until(lambda: CANCELLED in run_folder.read_receipt(folder).service)

            backend: Any = type(launch.backend_of(compose.load(overrides)))
            service = backend.service
            monkeypatch.setattr(backend, "service", lambda self: Watched(service(self), method, cancel))
            return cancellations

        return cancel_before

    def test_a_run_that_is_started_again_runs_once(self, ended: RemoteRun, faults: FaultInjector) -> None:
        assert faults.starts().count(ended.handle.id) == 1

    @pytest.mark.parametrize("name", ["model.keras", run_folder.RESULT])
    def test_a_damaged_output_is_refused(self, refusals: dict[str, Refusal], name: str) -> None:
        refusal = refusals[name]
        assert name in refusal.error.message
        assert not refusal.status.is_final
        assert not [file for file in refusal.files if file.startswith((".downloading", "result", "model."))]

    def test_an_output_that_is_right_again_is_downloaded(self, ended: RemoteRun, undisturbed: Result) -> None:
        run_folder.verify(ended.folder, undisturbed)
        assert run_folder.read_receipt(ended.folder).status is Status.completed

    def test_removed_checkpoints_are_gone_from_the_store(self, ended: RemoteRun, undisturbed: Result) -> None:
        assert undisturbed.history
        store, handle = ended.service.store(ended.handle), ended.handle
        found = store.list(handle.checkpoints)
        assert [name for name in found if name.endswith(".npz")]
        assert ended.stored_checkpoints().keys() == (
            set() if ended.service.store_is_in_run_folder else found.keys()
        )
        for _ in range(2):  # the second time, they are missing already
            checkpoints.remove(store, found)
            assert store.list(handle.checkpoints) == {}
        assert ended.stored_checkpoints() == {}

    def test_a_start_whose_answer_is_lost_is_one_run(
        self, unanswered: RemoteRun, faults: FaultInjector
    ) -> None:
        assert run_folder.read_receipt(unanswered.folder).status is not Status.failed
        assert faults.starts().count(unanswered.handle.id) == 1

    def test_following_survives_the_services_absence(
        self,
        unanswered: RemoteRun,
        undisturbed: Result,
        faults: FaultInjector,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        faults.fail_next_polls(ABSENT_POLLS)
        assert unanswered.wait().weights_sha256 == undisturbed.weights_sha256
        assert "the run is still running; retrying" in capsys.readouterr().err

    def test_a_requeued_run_continues_under_its_id(
        self, submit_remote: Callable[..., RemoteRun], undisturbed: Result, faults: FaultInjector
    ) -> None:
        before = len(faults.starts())
        faults.lose_next_node(LOST_AT, requeues=True)
        run = submit_remote("requeued", *JOB)
        check_continued(run, undisturbed)
        assert faults.starts()[before:] == [run.handle.id]
        assert RESTARTS not in run.handle.place

    def test_a_run_that_lost_its_node_is_submitted_again(
        self, resubmitted: Resubmitted, undisturbed: Result
    ) -> None:
        check_continued(resubmitted.run, undisturbed)
        assert "submitting the run again, 1 of" in (resubmitted.run.folder / run_folder.LOG).read_text()
        assert resubmitted.run.handle.place[RESTARTS] == "1"

    def test_of_two_followers_one_submits_a_run_again(self, resubmitted: Resubmitted) -> None:
        assert resubmitted.starts == (resubmitted.first_id, resubmitted.run.handle.id)
        assert resubmitted.first_id != resubmitted.run.handle.id

    def test_two_followers_get_the_same_result(self, resubmitted: Resubmitted) -> None:
        assert resubmitted.elsewhere.strip() == resubmitted.here.strip()

    def test_a_run_cancelled_before_its_submission_never_starts(
        self,
        submit_remote: Callable[..., RemoteRun],
        cancel_before: Callable[[str, str], list[Future[None]]],
        home: Path,
        faults: FaultInjector,
    ) -> None:
        before = len(faults.starts())
        cancellations = cancel_before("prepare", "cancelled-before")
        with pytest.raises(RunCancelled):
            submit_remote("cancelled-before", LONG)
        cancellations[0].result(WAIT_SECONDS)
        assert run_folder.read_receipt(home / "remote-cancelled-before").status is Status.cancelled
        assert len(faults.starts()) == before

    def test_a_run_cancelled_during_its_submission_ends(
        self,
        submit_remote: Callable[..., RemoteRun],
        cancel_before: Callable[[str, str], list[Future[None]]],
        faults: FaultInjector,
    ) -> None:
        cancellations = cancel_before("start", "cancelled-during")
        run = submit_remote("cancelled-during", LONG)
        cancellations[0].result(WAIT_SECONDS)
        check_cancelled(run, faults)

    def test_a_run_cancelled_after_its_submission_ends(
        self, submit_remote: Callable[..., RemoteRun], overrides: tuple[str, ...], faults: FaultInjector
    ) -> None:
        run = submit_remote("cancelled-after", LONG)
        launch.attach_to(run.folder, overrides).cancel()
        check_cancelled(run, faults)
