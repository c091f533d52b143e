"""A run on the cluster, found through its run folder: polled, followed, cancelled, downloaded."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import wait
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends import common
from mnist_cnn.backends.azure import checkpoints, checks, cluster, failures, log, outputs, register, upload
from mnist_cnn.backends.azure.failures import follow_hint, resume_hint, status_hint
from mnist_cnn.backends.azure.parallel import start_thread
from mnist_cnn.backends.azure.service import ServiceError, call, call_with_retries, open_workspace, report
from mnist_cnn.backends.azure.submitter import is_at_work
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, command_on
from mnist_cnn.result import Progress, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.backends.azure.config import AzureConfig

STATUSES = {
    **dict.fromkeys(("NotStarted", "Starting", "Queued", "Paused", "Unapproved"), Status.queued),
    **dict.fromkeys(("Provisioning", "Preparing"), Status.preparing),
    **dict.fromkeys(("Running", "NotResponding", "Pausing", "CancelRequested"), Status.running),
    "Finalizing": Status.finalizing,
    "Completed": Status.completed,
    "Failed": Status.failed,
    "Canceled": Status.cancelled,
}
"""The service's state names. Any other counts as running, and is reported."""
POLL_SECONDS, SLOW_POLL_SECONDS, POLL_GROWTH = 0.5, 10.0, 1.25
"""Pause between two polls. It grows from the first to the second while nothing changes."""
LIST_SECONDS = 60.0
"""How long the URLs of a run's logs are reused. They are valid for hours."""
OUTAGE_SECONDS = 600.0
"""How long an outage of the service may last while a run is followed."""
LOG_SECONDS = 60.0
"""How long the service may refuse the details and the log of a run that has ended."""
DOWNLOAD_SECONDS = 1800.0
"""How long a process waits while another one downloads the same result."""
CANCEL_SECONDS = 300.0
CANCEL_AGAIN_SECONDS = 10.0
"""Pause before the request to cancel is repeated, unless the run's state is `CANCELLING`."""
CANCELLING, UNKNOWN = "CancelRequested", "not known to the service"
RETRIES, CANCELLED = "retries", "cancelled"
"""Keys of the receipt's `service`: how often the run was submitted again after a preemption; that a user has
cancelled it."""
ENDING_SECONDS = 1800.0
"""How long the service may take to end a run after its maximum duration."""


def find_run(workspace: Any, run_id: str) -> Any:
    """Return the SDK's run. Call it within `service.call`."""
    from azureml.core import Run

    return Run.get(workspace, run_id)


def retries(receipt: run_folder.Receipt) -> int:
    """Return how often a run was submitted again since it was started or resumed."""
    return int(receipt.service.get(RETRIES, "0"))


class AzureRun:
    """A run on a cluster. Each poll writes what is new into the run folder.

    A run that the service has completed is `finalizing` until its result is downloaded. A preempted run is
    `queued` until a process that follows it submits it again with `resubmit`. Any process may do that at any
    moment, and the receipt then names another run of the service: what was learned about one run must never
    be recorded for the other.
    """

    def __init__(
        self, folder: Path, config: AzureConfig, resubmit: Callable[[AzureRun, str, str], None]
    ) -> None:
        self.folder = folder
        self.config = config
        self._resubmit_with = resubmit
        run_folder.read_receipt(folder)  # raises if it isn't valid
        self._answered_at: float | None = None
        self._lock = threading.RLock()
        self._reported_preemption = ""
        self._resubmit_failing_since: float | None = None
        self._forget()

    def _forget(self) -> None:
        """Reset what the service has reported, because the receipt may name another run now."""
        self._observed_id = ""
        self._state = self._reported_state = ""
        self._status = Status.queued
        self._terminal_since: float | None = None
        self._has_result_to_download = False
        self._failure: MnistCnnError | None = None
        self._preempted: failures.Preempted | None = None
        self._polled_at: float | None = None  # None makes the next `status` poll at once
        self._pause = POLL_SECONDS
        self._sdk_run: Any = None
        self._log_urls: dict[str, str] = {}
        self._logs_listed_at = 0.0

    def __repr__(self) -> str:
        return common.describe_run(self)

    def adopt(self, run: Any) -> None:
        """Use the SDK's run that was just submitted, instead of a request for it."""
        self._sdk_run, self._answered_at = run, time.monotonic()

    def status(self) -> Status:
        """Return the run's status; poll the service unless it was polled a moment ago."""
        with self._lock:
            is_due = self._polled_at is None or time.monotonic() - self._polled_at >= self._pause
            if is_due and not self._has_ended():
                self._poll_through_outages()
            return run_folder.read_receipt(self.folder).status if self._has_ended() else self._status

    def progress(self) -> Progress | None:
        if self._status is Status.running:
            return run_folder.read_progress(self.folder) or Progress("preparing")
        return Progress(self._status.value)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        reader = common.LogReader(self.folder)
        if not follow:
            try:
                self.status()
            except MnistCnnError as error:  # the log so far can be read anyway
                report(error.message)
            yield from reader.new_lines(is_last=True)
            return
        receipt = run_folder.read_receipt(self.folder)
        if receipt.url is not None:
            report(f"watch it in the studio: {receipt.url}")
        for _ in self._watch():
            yield from reader.new_lines()
        yield from reader.new_lines(is_last=True)

    def wait(self) -> Result:
        while not self._has_ended():  # another process may resume it
            for status in self._watch():
                if status is Status.lost:
                    raise BackendError("the run never reached the service", resume_hint(self.folder))
        if run_folder.read_receipt(self.folder).status is Status.completed:
            return run_folder.result_of(self.folder)
        raise common.recorded_error(self.folder)

    def cancel(self) -> None:
        """Cancel the run and wait until it has ended; raise BackendError after five minutes."""
        if self._refresh().is_final:
            return
        with run_folder.lock(self.folder):  # from now on no process submits it again
            receipt = run_folder.read_receipt(self.folder)
            marked = dataclasses.replace(receipt, service=receipt.service | {CANCELLED: "true"})
            run_folder.write_receipt(self.folder, marked)
        self._polled_at = None
        deadline = time.monotonic() + CANCEL_SECONDS
        while not (status := self._refresh()).is_final and self._state == UNKNOWN:
            message = "the run is marked as cancelled, but is still being submitted"
            self._pause_before(deadline, message)
        if status.is_final:  # it was preempted, or its submission saw the mark in time
            return
        run = self._cancellable_run()
        minutes = f"{CANCEL_SECONDS / 60:.0f} minutes"
        report(f"cancelling the run; waiting for up to {minutes}")
        requested_at, deadline = -CANCEL_AGAIN_SECONDS, time.monotonic() + CANCEL_SECONDS
        while not self._refresh().is_final:
            if self._state != CANCELLING and time.monotonic() - requested_at > CANCEL_AGAIN_SECONDS:
                call_with_retries("cancel the run", run.cancel)  # the SDK ignores the service's answer
                requested_at = time.monotonic()
            self._pause_before(deadline, f"the run is still {self._state} {minutes} after its cancellation")

    def _pause_before(self, deadline: float, message: str) -> None:
        """Pause before the next poll; raise BackendError with the message after the deadline."""
        if time.monotonic() > deadline:
            raise BackendError(message, status_hint(self.folder))
        time.sleep(POLL_SECONDS)
        self._polled_at = None

    def _cancellable_run(self) -> Any:
        """Return the SDK's run with its cancel URI.

        Without the URI the SDK only writes "canceled" into the run's history, and the job continues.
        """
        for again in (False, True):
            run = self._run(again=again)
            if getattr(run, "_run_dto", {}).get("cancel_uri"):
                return run
        hint = f"cancel it in the studio: {run.get_portal_url()}"
        raise BackendError("the service does not say how to cancel this run", hint)

    def download_checkpoints(self) -> None:
        """Download the run's checkpoints from the datastore into its folder."""
        with run_folder.lock(self.folder, DOWNLOAD_SECONDS):  # a trainer that starts removes partial files
            prefix = run_folder.read_receipt(self.folder).service.get("checkpoints")
            if prefix is not None:
                checkpoints.download(upload.default_datastore(self.workspace()), prefix, self.folder)

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        """Register the run's model in the workspace."""
        result = common.check_can_register(self.folder, self._refresh(), name, min_accuracy)
        with run_folder.lock(self.folder):  # of two that register at once, one finds the other's version
            return register.register(self.workspace(), self._run(), name, result)

    def cost_report(self) -> Iterator[str]:
        """Yield lines on the cluster's nodes: how many are billed, and what releases them."""
        name = self.config.cluster
        try:
            target = cluster.find(self.workspace(), name)
            if target is None:
                yield f"cluster {name}: not found (nothing is billed)"
            else:
                yield from cluster.costs(target, self.config)
        except MnistCnnError as error:
            yield f"cluster {name}: it is not known whether nodes are billed: {error.message}"
            yield f"check it: {cluster.command('show', self.config)}"

    def workspace(self) -> Any:
        """Return the workspace that the receipt names; log in if this process has not."""
        return open_workspace(self.workspace_name())

    def workspace_name(self) -> checks.WorkspaceName:
        service = run_folder.read_receipt(self.folder).service
        try:
            return checks.WorkspaceName(*itemgetter("subscription_id", "resource_group", "name")(service))
        except KeyError as error:
            message = f"{self.folder / run_folder.RECEIPT} does not name a workspace"
            raise BackendError(message, "start a new run") from error

    def _run(self, workspace: Any = None, run_id: str | None = None, *, again: bool = False) -> Any:
        run_id = run_id or run_folder.read_receipt(self.folder).id
        if self._sdk_run is None or self._sdk_run.id != run_id or again:
            workspace = workspace or self.workspace()
            self._sdk_run = call("find the run", lambda: find_run(workspace, run_id))
        return self._sdk_run

    def _has_ended(self) -> bool:
        """Return whether the receipt records the end; a lost run may still be found."""
        status = run_folder.read_receipt(self.folder).status
        return status.is_final and status is not Status.lost

    def _refresh(self) -> Status:
        """Return the status; download the result first if the service has completed the run."""
        status = self.status()
        if self._has_result_to_download and not status.is_final:
            self._download_result()
            status = self.status()
        return status

    def _poll_through_outages(self) -> None:
        """Poll; keep the last status during an outage of the service."""
        now = time.monotonic()
        try:
            self._poll()
            self._answered_at = time.monotonic()
        except ServiceError as error:
            is_refusal = error.status in (400, 401, 404)
            if is_refusal or self._answered_at is None or now - self._answered_at > OUTAGE_SECONDS:
                raise
            left = OUTAGE_SECONDS - (now - self._answered_at)
            report(f"{error.message}; the run is still running; retrying for up to {left:.0f} seconds")
            self._polled_at = time.monotonic()
            self._pause = min(SLOW_POLL_SECONDS, 2 * self._pause)

    def _poll(self) -> None:
        """Ask the service for the run's state, and append the new part of its log."""
        receipt = run_folder.read_receipt(self.folder)  # once, because another process may write it
        if self._observed_id not in {"", receipt.id}:
            self._forget()
        before = self._state
        is_being_submitted = is_at_work(receipt)
        workspace = self.workspace()  # outside `try`: a missing workspace does not mean that the run is lost
        try:
            run = self._run(workspace, receipt.id)
        except ServiceError as error:
            if not error.is_not_found:
                raise
            self._status = Status.preparing if is_being_submitted else Status.lost
            self._state, self._polled_at = UNKNOWN, time.monotonic()
            return
        self._observed_id, self._preempted = run.id, None
        details = self._details(run)
        self._state = str(details.get("status"))
        if self._state not in STATUSES and self._state != before:
            report(f"the service reports the unknown state {self._state}; it counts as running")
        news = log.fetch(self.folder, run.id, details["logFiles"]) if "logFiles" in details else None
        if news is None:
            self._log_urls = {}  # they may have changed
        self._status = STATUSES.get(self._state, Status.running)
        is_unchanged = self._state == before and not news
        self._pause = min(SLOW_POLL_SECONDS, POLL_GROWTH * self._pause) if is_unchanged else POLL_SECONDS
        self._polled_at = time.monotonic()
        if self._status.is_final:
            self._on_terminal(self._status, details, has_log=news is not None)

    def _details(self, run: Any) -> dict[str, Any]:
        """Return the run's state, the URLs of its logs and its error.

        The state alone is one request, the details are three. The state is enough while it doesn't change and
        the URLs are known, or while there is no log yet.
        """
        what, status = "read the run's state", STATUSES.get(self._state)
        has_no_log = status in (Status.queued, Status.preparing)
        is_recent = time.monotonic() - self._logs_listed_at < LIST_SECONDS
        is_under_way = status is not None and not status.is_final
        if is_recent and is_under_way and (has_no_log or log.has_node_log(self._log_urls)):
            state = str(call(what, run.get_status))
            if state == self._state:
                return {"status": state, "logFiles": self._log_urls}
        try:
            details: dict[str, Any] = call(what, run.get_details)
        except ServiceError:  # the details fail if the logs can't be listed; the state may still be read
            return {"status": call(what, run.get_status)}
        self._log_urls, self._logs_listed_at = details.get("logFiles", {}), time.monotonic()
        return details

    def _on_terminal(self, status: Status, details: dict[str, Any], *, has_log: bool) -> None:
        """Record the run's end when its log is complete, or has been refused for a minute."""
        self._terminal_since = self._terminal_since or time.monotonic()
        if not has_log and time.monotonic() - self._terminal_since < LOG_SECONDS:
            self._status = Status.finalizing
        elif status is Status.completed:
            self._status = Status.finalizing
            self._has_result_to_download = True
        elif status is Status.cancelled:
            self._end_cancelled()
        else:
            self._on_failure(failures.of_run(self.folder, details))

    def _on_failure(self, failure: MnistCnnError) -> None:
        receipt = run_folder.read_receipt(self.folder)
        if not isinstance(failure, failures.Preempted):
            self._record_failure(failure)
        elif CANCELLED in receipt.service:
            self._end_cancelled()
        elif retries(receipt) >= self.config.preemption_retries:
            self._record_failure(failure)
        else:
            self._status = Status.queued
            self._preempted = failure
            if self._reported_preemption != self._observed_id:
                self._reported_preemption = self._observed_id
                report(f"{failure.message}; follow submits the run again")

    def _end_cancelled(self) -> None:
        message = "the run was cancelled"
        if CANCELLED not in run_folder.read_receipt(self.folder).service:  # the SDK does not get the reason
            limit = f"backend.max_duration={self.config.max_duration} minutes"
            message = f"the service cancelled the run: a user did it in the studio, or it exceeded {limit}"
        error = RunCancelled(message, resume_hint(self.folder))
        run_folder.record_end_of(self.folder, self._observed_id, Status.cancelled, error)

    def _resubmit(self) -> None:
        """Submit a preempted run again; it continues from its last checkpoint.

        The thread isn't a daemon: Python waits for the submission at its exit, even if Ctrl-C ends the wait
        here. If the service has an outage, or Python exits before the SDK's threads have sent all files, the
        receipt stays as it was, and the run can be submitted again later.
        """
        with self._lock:
            preempted, preempted_id = self._preempted, self._observed_id
        if preempted is None:  # another poll has found another state
            return
        resubmit = partial(self._resubmit_with, self, preempted_id, preempted.message)
        submission = start_thread(resubmit, daemon=False)
        wait([submission])
        with self._lock:
            self._forget()
        error = submission.exception()
        if error is None:
            self._answered_at, self._resubmit_failing_since = time.monotonic(), None
            return
        if not (isinstance(error, ServiceError) and error.is_transient):
            raise error
        self._resubmit_failing_since = self._resubmit_failing_since or time.monotonic()
        left = OUTAGE_SECONDS - (time.monotonic() - self._resubmit_failing_since)
        if left < 0:
            again, cancel = command_on("follow", self.folder), command_on("cancel", self.folder)
            hint = f"submit it again: {again}; cancel it: {cancel}"
            raise BackendError(f"{error.message}; the preempted run was not submitted again", hint) from error
        report(f"{error.message}; retrying for up to {left:.0f} seconds")
        time.sleep(SLOW_POLL_SECONDS)

    def _record_failure(self, failure: MnistCnnError) -> None:
        """Record that the run failed, unless its training succeeded and its result is sound.

        The service also fails a run if it can't store its last metrics. If the result exists but can't be
        downloaded now, the run stays `finalizing`.
        """
        if log.failure(self.folder) is not None:
            run_folder.record_end_of(self.folder, self._observed_id, Status.failed, failure)
            return
        self._status = Status.finalizing
        self._failure = failure
        self._has_result_to_download = True
        try:
            self._download_result()
        except BackendError as error:
            report(error.message)

    def _watch(self) -> Iterator[Status]:
        """Yield each polled status until the run has ended and its result is downloaded.

        Raises BackendError if the service did not answer for ten minutes, if the run got no node or did not
        end in time, or if its result can't be downloaded now.
        """
        self._answered_at = self._answered_at or time.monotonic()
        waiting_since: float | None = None
        running_since: float | None = None
        hint = follow_hint(self.folder)
        queue_timeout = self.config.queue_timeout
        max_seconds = self.config.max_duration * 60 + ENDING_SECONDS
        while True:
            try:
                status = self.status()
            except ServiceError as error:
                raise BackendError(f"{error.message}; the run is still running", hint) from error
            now = time.monotonic()
            self._report_state(status, queue_timeout, max_seconds)
            yield status
            if status is Status.lost or self._has_ended():
                return
            if status.is_final:  # another process has resumed it since
                self._polled_at = None
            elif self._has_result_to_download:
                self._download_result()
            elif self._preempted is not None:
                self._resubmit()
                waiting_since = running_since = None
            elif status in (Status.queued, Status.preparing):
                waiting_since, running_since = waiting_since or now, None
                if now - waiting_since > queue_timeout:
                    waited = f"the run is still {status.value} after {queue_timeout} seconds"
                    raise BackendError(f"{waited}: no node is free; it stays in the queue", hint)
            else:
                waiting_since, running_since = None, running_since or now
                if now - running_since > max_seconds:
                    raise BackendError(f"the run has not ended after {max_seconds:.0f} seconds", hint)
            time.sleep(POLL_SECONDS / 4)

    def _report_state(self, status: Status, queue_timeout: float, max_seconds: float) -> None:
        """Report a new state, and how long the run may stay in it."""
        if self._state == self._reported_state:
            return
        from humanize import precisedelta

        self._reported_state, limit = self._state, ""
        if status in (Status.queued, Status.preparing):
            limit = f"; waiting for a node for up to {precisedelta(queue_timeout)}"
        elif status is Status.running:
            limit = f"; waiting for up to {precisedelta(max_seconds)}"
        report(f"{self.folder.name} is {status.value} ({self._state}){limit}")

    def _download_result(self) -> None:
        """Download the result of an ended run, once, and record the end. Raises BackendError."""
        with self._lock, run_folder.lock(self.folder, DOWNLOAD_SECONDS):
            if self._has_ended() or run_folder.read_receipt(self.folder).id != self._observed_id:
                return
            failure = self._failure
            try:
                outputs.download(self._run(), self.folder)
            except outputs.ResultMissing as error:
                run_folder.record_end(self.folder, Status.failed, failure or error)
            except outputs.ResultDamaged:
                if failure is None:
                    raise
                run_folder.record_end(self.folder, Status.failed, failure)
            except ServiceError as error:
                if failure is not None and error.is_not_found:
                    run_folder.record_end(self.folder, Status.failed, failure)
                    return
                ending = failure.message if failure is not None else "the run has ended"
                message = f"{error.message}; {ending}, and the service keeps its files"
                raise BackendError(message, f"download them: {command_on('follow', self.folder)}") from error
            else:
                if failure is not None:
                    report(f"{failure.message}; but its training succeeded, and its result is sound")
                run_folder.record_end(self.folder, Status.completed)
