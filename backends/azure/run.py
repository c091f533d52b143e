"""A run of the service, known from its run folder alone: where it stands, what it says, how it ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends.azure import checks, cluster, log, outputs, register
from mnist_cnn.backends.azure.service import ServiceError, call, call_again, open_workspace, say
from mnist_cnn.errors import ERRORS_BY_EXIT_CODE, BackendError, MnistCnnError, RunCancelled, TrainingError
from mnist_cnn.result import Progress, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.config import RegisterConfig

STATUSES = {
    "NotStarted": Status.queued,
    "Starting": Status.queued,
    "Queued": Status.queued,
    "Paused": Status.queued,
    "Unapproved": Status.queued,
    "Provisioning": Status.preparing,
    "Preparing": Status.preparing,
    "Running": Status.running,
    "NotResponding": Status.running,
    "Pausing": Status.running,
    "CancelRequested": Status.running,
    "Finalizing": Status.finalizing,
    "Completed": Status.completed,
    "Failed": Status.failed,
    "Canceled": Status.cancelled,
}
"""The service's names; any other reads as running, with a warning."""
POLL_SECONDS, SLOW_POLL_SECONDS = 1.0, 10.0
"""Pauses between two looks: the first while something changes, growing to the second while nothing does."""
AWAY_SECONDS = 600.0
"""How long the service may be away while a run is followed."""
CANCEL_SECONDS = 300.0
ENDING_SECONDS = 1800.0
"""How long a run may take beyond its maximum duration to be ended by the service."""


def find_run(workspace: Any, run_id: str) -> Any:
    """Return the SDK's run; to be called within `service.call`."""
    from azureml.core import Run

    return Run.get(workspace, run_id)


class AzureRun:
    """A run on a cluster; every look at it writes what is new into the run folder."""

    def __init__(self, folder: Path, config: AzureConfig, *, is_known: bool = False) -> None:
        self.folder = folder
        self.config = config
        self._service = run_folder.read_receipt(folder).service
        self._state = ""
        self._status = Status.queued
        self._looked = 0.0
        self._answered = time.monotonic() if is_known else None
        self._pause = POLL_SECONDS
        self._lock = threading.RLock()
        self._found: Any = None

    def status(self) -> Status:
        """Return where the run stands now; asks the service at most once in a pause.

        Raises:
            ServiceError: it does not answer, and has not done so for ten minutes or ever.
        """
        with self._lock:
            receipt = run_folder.read_receipt(self.folder)
            if receipt.status.is_final:
                return receipt.status
            if time.monotonic() - self._looked >= self._pause or not self._looked:
                self._look_through_absences()
            return self._status

    def progress(self) -> Progress | None:
        """Return where the training stands, as the node's log said it last."""
        if self._status is Status.running:
            return log.last_progress(self.folder) or Progress("preparing")
        return Progress(self._status.value)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the node's log line by line; with `follow`, until the run has ended, and say its states."""
        told, read = "", log.Reader(self.folder)
        if not follow:
            self._refresh()
            yield from read.new_lines(is_last=True)
            return
        receipt = run_folder.read_receipt(self.folder)
        if receipt.url is not None:
            say(f"watch it in the studio: {receipt.url}")
        try:
            for _ in self._until_the_end():
                if self._state != told:
                    told = self._state
                    say(f"the run is {self._status.value} ({told})")
                yield from read.new_lines()
        except BackendError:  # whoever waits for the run is told
            return
        yield from read.new_lines(is_last=True)

    def wait(self) -> Result:
        """Wait for the end, bring the result here; return it, or raise how the run ended."""
        for _ in self._until_the_end():
            pass
        receipt = run_folder.read_receipt(self.folder)
        if not receipt.status.is_final:
            self._end(self.status())
        receipt = run_folder.read_receipt(self.folder)
        log_hint = f"the log is {self.folder / run_folder.LOG}"
        if receipt.status is Status.completed:
            result = run_folder.read_result(self.folder)
            if result is None:
                raise BackendError(
                    f"{self.folder} is completed but has no result.json", "it was removed since"
                )
            return result
        if receipt.status is Status.cancelled:
            raise RunCancelled("the run was cancelled", f"go on with it: resume {self.folder}")
        error = ERRORS_BY_EXIT_CODE.get(receipt.exit_code or 0, MnistCnnError)
        raise error(receipt.error or "the run failed", "; ".join(filter(None, (receipt.hint, log_hint))))

    def cancel(self) -> None:
        """Have the service end the run; return when it has ended, or raise after five minutes."""
        if self.status().is_final:
            self._end(self.status())
            return
        run = self._run()
        if not getattr(run, "_run_dto", {}).get("cancel_uri"):
            # The SDK would only write "canceled" into the run's history, and the job would run on.
            run = self._run(again=True)
        if not getattr(run, "_run_dto", {}).get("cancel_uri"):
            hint = f"cancel it in the studio: {run_folder.read_receipt(self.folder).url}"
            raise BackendError("the service does not say how this run is cancelled", hint)
        say(f"cancelling the run, for {CANCEL_SECONDS / 60:.0f} minutes at most")
        call_again("cancel the run", run.cancel)
        deadline = time.monotonic() + CANCEL_SECONDS
        while not self._now().is_final:
            if time.monotonic() > deadline:
                message = (
                    f"the run is still {self._state} {CANCEL_SECONDS / 60:.0f} minutes after its cancellation"
                )
                raise BackendError(message, f"look again: status {self.folder}")
            time.sleep(POLL_SECONDS)
        self._end(self._status)

    def register(self, register_config: RegisterConfig) -> ModelRef:
        """Register the run's model in the workspace."""
        if self.status() is not Status.completed:
            raise BackendError(
                f"{self.folder} is {self.status().value}, not completed", "finish the run first"
            )
        result = self.wait()
        return register.register(self._workspace(), self._run(), register_config, result)

    def aftermath(self) -> Iterator[str]:
        """Say whether the cluster still has nodes, what ends them and when they end by themselves."""
        name = self.config.cluster
        try:
            target = cluster.find(self._workspace(), name)
            if target is None:
                yield f"the cluster {name} is gone, and costs nothing"
            else:
                yield from cluster.costs(target)
        except BackendError as error:
            yield f"whether the cluster {name} still has nodes is not known: {error.message}"
            yield f"look: python -m mnist_cnn cluster show backend=azure backend.cluster={name}"

    def _workspace(self) -> Any:
        try:
            name = checks.WorkspaceName(
                self._service["subscription_id"], self._service["resource_group"], self._service["name"]
            )
        except KeyError as error:
            raise BackendError(
                f"{self.folder / run_folder.RECEIPT} names no workspace", "start a new run"
            ) from error
        return open_workspace(name)

    def _run(self, *, again: bool = False) -> Any:
        if self._found is None or again:
            run_id = run_folder.read_receipt(self.folder).id
            workspace = self._workspace()
            self._found = call("find the run", lambda: find_run(workspace, run_id))
        return self._found

    def _now(self) -> Status:
        self._looked = 0.0
        return self.status()

    def _look_through_absences(self) -> None:
        """Look; where the service is away for a while, the run stands where it stood last."""
        now = time.monotonic()
        try:
            self._look()
            self._answered = time.monotonic()
        except ServiceError as error:
            is_refusal = error.status in (400, 401, 404)
            if is_refusal or self._answered is None or now - self._answered > AWAY_SECONDS:
                raise
            left = AWAY_SECONDS - (now - self._answered)
            say(f"{error.message}; the run goes on; trying on for {left:.0f} seconds")
            self._looked = time.monotonic()

    def _look(self) -> None:
        """Ask the service where the run stands, and bring its log here."""
        before = self._state
        try:
            run = self._run()
        except ServiceError as error:
            if error.status != 404:  # noqa: PLR2004
                raise
            self._status, self._looked = self._unknown_there(), time.monotonic()
            self._state = "not known to the service"
            return
        try:
            details = call("ask for the run's state", run.get_details)
        except ServiceError:  # where the log cannot be listed there are no details, but there is a state
            details = {"status": call("ask for the run's state", run.get_status)}
        self._state = str(details.get("status"))
        if self._state not in STATUSES and self._state != before:
            say(f"the service says {self._state}, which this version does not know; it counts as running")
        has_news = log.fetch(self.folder, details.get("logFiles") or {})
        self._status = STATUSES.get(self._state, Status.running)
        is_slow = self._state == before and not has_news
        self._pause = min(SLOW_POLL_SECONDS, 1.2 * self._pause) if is_slow else POLL_SECONDS
        self._looked = time.monotonic()
        if self._status in (Status.failed, Status.cancelled):
            self._end(self._status, details)

    def _unknown_there(self) -> Status:
        """Tell, of a run that the service does not know, whether it is being submitted or never was."""
        import psutil

        receipt = run_folder.read_receipt(self.folder)
        try:
            submitter = psutil.Process(receipt.pid) if receipt.pid is not None else None
            is_alive = submitter is not None and submitter.create_time() == receipt.process_started
        except psutil.NoSuchProcess:
            is_alive = False
        return Status.preparing if is_alive else Status.lost

    def _refresh(self) -> None:
        """Bring the log here where that is possible; what is here already can be read without."""
        try:
            self.status()
        except BackendError as error:
            say(error.message)

    def _until_the_end(self) -> Iterator[Status]:
        """Yield the status at each look until it is final, through absences of the service.

        Raises:
            BackendError: no answer for ten minutes, no node in time, or no end in time; the run goes on.
        """
        started = time.monotonic()
        self._answered = self._answered or started
        running_since: float | None = None
        go_on = f"watch it again: follow {self.folder}; end it: cancel {self.folder}"
        start_seconds = self.config.start_seconds
        max_seconds = self.config.max_duration * 60 + ENDING_SECONDS
        while True:
            try:
                status = self.status()
            except ServiceError as error:
                raise BackendError(f"{error.message}; the run goes on", go_on) from error
            now = time.monotonic()
            yield status
            if status.is_final:
                return
            if status in (Status.queued, Status.preparing):
                if now - started > start_seconds:
                    message = (
                        f"the run is still {status.value} after {start_seconds} seconds: no node took it"
                    )
                    raise BackendError(f"{message}; it goes on waiting", go_on)
            else:
                running_since = running_since or now
                if now - running_since > max_seconds:
                    raise BackendError(f"the run has not ended after {max_seconds:.0f} seconds", go_on)
            time.sleep(POLL_SECONDS / 4)

    def _end(self, status: Status, details: dict[str, Any] | None = None) -> None:
        """Enter the run's end into the receipt; of a completed one, bring the result here first."""
        with self._lock:
            if run_folder.read_receipt(self.folder).status.is_final:
                return
            if status is Status.completed:
                try:
                    outputs.bring(self._run(), self.folder)
                except outputs.NoResult as error:
                    run_folder.ended(self.folder, Status.failed, error)
                    return
                run_folder.ended(self.folder, Status.completed)
            elif status is Status.cancelled:
                run_folder.ended(
                    self.folder, status, RunCancelled("the run was cancelled", "go on with it: resume RUN")
                )
            elif status is Status.lost:
                hint = f"start it again: resume {self.folder}"
                run_folder.ended(self.folder, status, BackendError("the run never reached the service", hint))
            else:
                run_folder.ended(self.folder, Status.failed, self._failure(details or {}))

    def _failure(self, details: dict[str, Any]) -> MnistCnnError:
        """Word a failed run: as the trainer did in the log, else as the service does."""
        told = log.failure(self.folder)
        if told is not None:
            return told
        envelope = details.get("error") or {}
        error = envelope.get("error", envelope) if isinstance(envelope, dict) else {}
        said = " ".join(str(error.get("message") or "the service gives no reason").split())[:500]
        preempted = "preempt" in said.lower() or "pre-empt" in said.lower()
        if preempted:
            return BackendError(f"the node was taken away: {said}", f"go on with it: resume {self.folder}")
        kind = TrainingError if "JobFailed" in str(error) else BackendError
        return kind(f"the run failed in the service: {said}", f"start it again: resume {self.folder}")
