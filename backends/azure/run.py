"""A run of the service, known from its run folder alone: where it stands, what it says, how it ends."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends import common
from mnist_cnn.backends.azure import (
    checkpoints,
    checks,
    cluster,
    failures,
    log,
    outputs,
    register,
    submitter,
    upload,
)
from mnist_cnn.backends.azure.service import ServiceError, call, call_again, open_workspace, say
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled
from mnist_cnn.result import Progress, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.backends.azure.config import AzureConfig

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
POLL_SECONDS, SLOW_POLL_SECONDS, POLL_GROWTH = 0.5, 10.0, 1.25
"""Pauses between two looks: the first while something changes, growing to the second while nothing does."""
LIST_SECONDS = 60.0
"""How long the addresses of a run's logs are used before they are asked for again; they last for hours."""
AWAY_SECONDS = 600.0
"""How long the service may be away while a run is followed."""
LOG_SECONDS = 60.0
"""How long an ended run's details and log are asked for, where the service refuses them."""
DOWNLOAD_SECONDS = 1800.0
"""How long one process waits for another that is bringing the same result."""
CANCEL_SECONDS = 300.0
CANCEL_AGAIN_SECONDS = 10.0
"""After that the service is asked again, where its word for a run is not `CANCELLING`."""
CANCELLING, UNKNOWN = "CancelRequested", "not known to the service"
RETRIES, CANCELLED = "retries", "cancelled"
"""The receipt's entries, under `service`: how often the run was submitted again because its node had been
taken away, and that somebody has cancelled it."""
ENDING_SECONDS = 1800.0
"""How long a run may take beyond its maximum duration to be ended by the service."""


def find_run(workspace: Any, run_id: str) -> Any:
    """Return the SDK's run; to be called within `service.call`."""
    from azureml.core import Run

    return Run.get(workspace, run_id)


def retries(receipt: run_folder.Receipt) -> int:
    """Return how often a run was submitted again since somebody started or resumed it."""
    return int(receipt.service.get(RETRIES, "0"))


class AzureRun:
    """A run on a cluster; every look at it writes what is new into the run folder.

    A run that the service has completed is `finalizing` until its result is here; one whose node was taken
    away is `queued` until whoever follows it has submitted it again, which `resubmit` does. Another
    process may do that at any moment: what was learned of one run of the service is not entered for another.
    """

    def __init__(
        self,
        folder: Path,
        config: AzureConfig,
        resubmit: Callable[[AzureRun, str, str], None] | None = None,
        *,
        is_known: bool = False,
    ) -> None:
        self.folder = folder
        self.config = config
        self._resubmit_with = resubmit
        run_folder.read_receipt(folder)  # which has to be one
        self._answered = time.monotonic() if is_known else None
        self._lock = threading.RLock()
        self._reported_preemption = ""
        self._not_started_since: float | None = None
        self._forget()

    def _forget(self) -> None:
        """Forget all that the service has said: the receipt may name another run of it now."""
        self._seen_id = ""
        self._state = self._told = ""
        self._status = Status.queued
        self._terminal_since: float | None = None
        self._has_result_to_download = False
        self._failed: MnistCnnError | None = None
        self._preempted: failures.Preempted | None = None
        self._looked: float | None = None  # when the service was asked last; None has it asked at once
        self._pause = POLL_SECONDS
        self._found: Any = None
        self._logs: dict[str, str] = {}
        self._listed = 0.0

    def __repr__(self) -> str:
        return common.describe_run(self)

    def adopt(self, run: Any) -> None:
        """Take the SDK's run, from whoever has just submitted it, instead of asking for it."""
        self._found = run

    def status(self) -> Status:
        """Return where the run stands now; asks the service at most once in a pause.

        Raises:
            ServiceError: it refuses, or does not answer, and has not done so for ten minutes or ever.
            BackendError: the disk here does not take what it says.
        """
        with self._lock:
            is_due = self._looked is None or time.monotonic() - self._looked >= self._pause
            if is_due and not self._has_ended():
                self._poll_through_outages()
            return run_folder.read_receipt(self.folder).status if self._has_ended() else self._status

    def progress(self) -> Progress | None:
        """Return where the training stands, as the node's log said it last."""
        if self._status is Status.running:
            return run_folder.read_progress(self.folder) or Progress("preparing")
        return Progress(self._status.value)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the node's log line by line; with `follow`, until the run has ended, and say its states.

        Raises:
            BackendError: it could not be followed to its end, and goes on.
        """
        reader = common.LogReader(self.folder)
        if not follow:
            self._refresh_if_possible()
            yield from reader.new_lines(is_last=True)
            return
        receipt = run_folder.read_receipt(self.folder)
        if receipt.url is not None:
            say(f"watch it in the studio: {receipt.url}")
        for _ in self._until_the_end():
            yield from reader.new_lines()
        yield from reader.new_lines(is_last=True)

    def wait(self) -> Result:
        """Wait for the end, bring the result here; return it, or raise how the run ended."""
        while not self._has_ended():  # another may have resumed it since it was seen to end
            for status in self._until_the_end():
                if status is Status.lost:
                    hint = f"start it again: resume {self.folder}"
                    raise BackendError("the run never reached the service", hint)
        if run_folder.read_receipt(self.folder).status is Status.completed:
            return common.result_of(self.folder)
        raise common.recorded_error(self.folder)

    def cancel(self) -> None:
        """Have the service end the run; return when it has ended, or raise after five minutes."""
        if self._refresh().is_final:
            return
        with run_folder.lock(self.folder):  # from here on nobody submits it again
            receipt = run_folder.read_receipt(self.folder)
            marked = dataclasses.replace(receipt, service=receipt.service | {CANCELLED: "true"})
            run_folder.write_receipt(self.folder, marked)
        self._looked = None
        if self._submitted().is_final:  # its node had been taken away, or its submission heard of it in time
            return
        run = self._run()
        if not getattr(run, "_run_dto", {}).get("cancel_uri"):
            # The SDK would only write "canceled" into the run's history, and the job would run on.
            run = self._run(again=True)
        if not getattr(run, "_run_dto", {}).get("cancel_uri"):
            hint = f"cancel it in the studio: {run.get_portal_url()}"
            raise BackendError("the service does not say how this run is cancelled", hint)
        say(f"cancelling the run, for {CANCEL_SECONDS / 60:.0f} minutes at most")
        asked, deadline = -CANCEL_AGAIN_SECONDS, time.monotonic() + CANCEL_SECONDS
        while not self._refresh().is_final:
            if time.monotonic() > deadline:
                message = (
                    f"the run is still {self._state} {CANCEL_SECONDS / 60:.0f} minutes after its cancellation"
                )
                hint = f"look again: status {self.folder}; end it: cancel {self.folder}"
                raise BackendError(message, hint)
            if self._state != CANCELLING and time.monotonic() - asked > CANCEL_AGAIN_SECONDS:
                call_again("cancel the run", run.cancel)  # the SDK does not look at what the service answers
                asked = time.monotonic()
            time.sleep(POLL_SECONDS)
            self._looked = None

    def _submitted(self) -> Status:
        """Return where the run stands, after whoever is submitting it has done so, or left it.

        Raises:
            BackendError: that takes more than five minutes.
        """
        deadline = time.monotonic() + CANCEL_SECONDS
        while not (status := self._refresh()).is_final and self._state == UNKNOWN:
            if time.monotonic() > deadline:
                hint = f"look again: status {self.folder}; end it: cancel {self.folder}"
                raise BackendError("the run is still being submitted, and marked as cancelled", hint)
            time.sleep(POLL_SECONDS)
            self._looked = None
        return status

    def download_checkpoints(self) -> None:
        """Bring the checkpoints that the run's nodes left on the datastore into its folder."""
        with run_folder.lock(
            self.folder, DOWNLOAD_SECONDS
        ):  # a trainer that starts removes what is half there
            place = run_folder.read_receipt(self.folder).service.get("checkpoints")
            if place is not None:
                checkpoints.bring(upload.default_datastore(self.workspace()), place, self.folder)

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        """Register the run's model in the workspace."""
        result = common.check_can_register(self.folder, self._refresh(), name, min_accuracy)
        with run_folder.lock(self.folder):  # of two that register at once, one finds the other's version
            return register.register(self.workspace(), self._run(), name, result)

    def cost_report(self) -> Iterator[str]:
        """Say whether the cluster still has nodes, what ends them and when they end by themselves."""
        name = self.config.cluster
        try:
            target = cluster.find(self.workspace(), name)
            if target is None:
                yield f"the cluster {name} is gone, and costs nothing"
            else:
                yield from cluster.costs(target, self.config)
        except MnistCnnError as error:
            yield f"whether the cluster {name} still has nodes is not known: {error.message}"
            yield f"look: {cluster.command('show', self.config)}"

    def workspace(self) -> Any:
        """Return the workspace that the receipt names; logs in where this process has not."""
        service = run_folder.read_receipt(self.folder).service
        try:
            name = checks.WorkspaceName(
                service["subscription_id"], service["resource_group"], service["name"]
            )
        except KeyError as error:
            raise BackendError(
                f"{self.folder / run_folder.RECEIPT} names no workspace", "start a new run"
            ) from error
        return open_workspace(name)

    def _run(self, workspace: Any = None, run_id: str | None = None, *, again: bool = False) -> Any:
        run_id = run_id or run_folder.read_receipt(self.folder).id
        if self._found is None or self._found.id != run_id or again:
            workspace = workspace or self.workspace()
            self._found = call("find the run", lambda: find_run(workspace, run_id))
        return self._found

    def _has_ended(self) -> bool:
        """Tell whether the receipt says how the run ended; one that was lost may be found yet."""
        status = run_folder.read_receipt(self.folder).status
        return status.is_final and status is not Status.lost

    def _refresh(self) -> Status:
        """Return where the run stands; of one that the service has completed, after its result is here."""
        status = self.status()
        if self._has_result_to_download and not status.is_final:
            self._download_result()
            status = self.status()
        return status

    def _poll_through_outages(self) -> None:
        """Look; where the service is away for a while, the run stands where it stood last."""
        now = time.monotonic()
        try:
            self._poll()
            self._answered = time.monotonic()
        except ServiceError as error:
            is_refusal = error.status in (400, 401, 404)
            if is_refusal or self._answered is None or now - self._answered > AWAY_SECONDS:
                raise
            left = AWAY_SECONDS - (now - self._answered)
            say(f"{error.message}; the run goes on; trying on for {left:.0f} seconds")
            self._looked = time.monotonic()
            self._pause = min(SLOW_POLL_SECONDS, 2 * self._pause)

    def _poll(self) -> None:
        """Ask the service where the run stands, and bring its log here."""
        receipt = run_folder.read_receipt(self.folder)  # once, for another may write it meanwhile
        if self._seen_id not in {"", receipt.id}:
            self._forget()
        before = self._state
        is_being_submitted = submitter.is_at_work(receipt)
        workspace = self.workspace()  # where that is gone, the run is not
        try:
            run = self._run(workspace, receipt.id)
        except ServiceError as error:
            if error.status != 404:  # noqa: PLR2004
                raise
            self._status = Status.preparing if is_being_submitted else Status.lost
            self._state, self._looked = UNKNOWN, time.monotonic()
            return
        self._seen_id, self._preempted = run.id, None
        details = self._details(run)
        self._state = str(details.get("status"))
        if self._state not in STATUSES and self._state != before:
            say(f"the service says {self._state}, which this version does not know; it counts as running")
        news = log.fetch(self.folder, run.id, details["logFiles"]) if "logFiles" in details else None
        if news is None:
            self._logs = {}  # they may be elsewhere now
        self._status = STATUSES.get(self._state, Status.running)
        is_slow = self._state == before and not news
        self._pause = min(SLOW_POLL_SECONDS, POLL_GROWTH * self._pause) if is_slow else POLL_SECONDS
        self._looked = time.monotonic()
        if self._status.is_final:
            self._on_terminal(self._status, details, is_told_all=news is not None)

    def _details(self, run: Any) -> dict[str, Any]:
        """Ask for the run's state, its logs' addresses and its error; for its state alone where that will do.

        The details are three requests, the state is one: it will do while it is the same, as long as the
        addresses of the logs are known or there is no log yet.
        """
        status = STATUSES.get(self._state)
        has_no_log = status in (Status.queued, Status.preparing)
        knows_the_log = log.is_among(self._logs)
        is_young = time.monotonic() - self._listed < LIST_SECONDS
        if is_young and status is not None and not status.is_final and (knows_the_log or has_no_log):
            state = str(call("ask for the run's state", run.get_status))
            if state == self._state:
                return {"status": state, "logFiles": self._logs}
        try:
            details: dict[str, Any] = call("ask for the run's state", run.get_details)
        except ServiceError:  # where the log cannot be listed there are no details, but there is a state
            return {"status": call("ask for the run's state", run.get_status)}
        self._logs, self._listed = details.get("logFiles", {}), time.monotonic()
        return details

    def _on_terminal(self, status: Status, details: dict[str, Any], *, is_told_all: bool) -> None:
        """Take down how the service ended the run, as soon as it has told all of it."""
        self._terminal_since = self._terminal_since or time.monotonic()
        if not is_told_all and time.monotonic() - self._terminal_since < LOG_SECONDS:
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
        elif self._resubmit_with is None or retries(receipt) >= self.config.preemption_retries:
            self._record_failure(failure)
        else:
            self._status = Status.queued
            self._preempted = failure
            if self._reported_preemption != self._seen_id:
                self._reported_preemption = self._seen_id
                say(f"{failure.message}; whoever follows the run starts it again")

    def _end_cancelled(self) -> None:
        hint = f"go on with it: resume {self.folder}"
        if CANCELLED in run_folder.read_receipt(self.folder).service:
            error = RunCancelled("the run was cancelled", hint)
        else:  # why it did, the service does not tell the SDK
            minutes = f"its {self.config.max_duration} minutes (backend.max_duration) were over"
            error = RunCancelled(
                f"the service cancelled the run: somebody asked it to in its studio, or because {minutes}",
                hint,
            )
        run_folder.record_end_of(self.folder, self._seen_id, Status.cancelled, error)

    def _resubmit(self) -> None:
        """Have a run whose node was taken away submitted again; it goes on from its last checkpoint.

        Python's end waits for the submission, also where a Ctrl-C ends the waiting for it. Where the service
        is away just now, or Python ends before the SDK has sent its files, which it does in threads, the run
        stays as it is, to be started again later.

        Raises:
            BackendError: the service or this machine does not do it.
        """
        with self._lock:
            taken, taken_id, resubmit = self._preempted, self._seen_id, self._resubmit_with
        if taken is None or resubmit is None:  # another look has found it otherwise
            return
        outcome: list[BaseException] = []

        def start() -> None:
            try:
                resubmit(self, taken_id, taken.message)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                outcome.append(error)

        thread = threading.Thread(target=start, daemon=False)
        thread.start()
        thread.join()
        with self._lock:
            self._forget()
        if not outcome:
            self._answered, self._not_started_since = time.monotonic(), None
            return
        error = outcome[0]
        self._not_started_since = self._not_started_since or time.monotonic()
        away = time.monotonic() - self._not_started_since
        if not failures.is_passing(error):
            raise error
        if away > AWAY_SECONDS:
            hint = f"start it again: follow {self.folder}; end it: cancel {self.folder}"
            raise BackendError(f"{error}; the run waits to be started again", hint) from error
        say(f"{error}; trying on for {AWAY_SECONDS - away:.0f} seconds")
        time.sleep(SLOW_POLL_SECONDS)

    def _record_failure(self, failure: MnistCnnError) -> None:
        """Enter that the run failed, unless its training had succeeded before and its result is whole.

        The service fails a run too whose last metrics it could not take. Where the result is there but cannot
        be brought now, the run stays `finalizing`.
        """
        if log.failure(self.folder) is not None:
            run_folder.record_end_of(self.folder, self._seen_id, Status.failed, failure)
            return
        self._status = Status.finalizing
        self._failed = failure
        self._has_result_to_download = True
        try:
            self._download_result()
        except BackendError as error:
            say(error.message)

    def _refresh_if_possible(self) -> None:
        """Bring the log here where that is possible; what is here already can be read without."""
        try:
            self.status()
        except MnistCnnError as error:
            say(error.message)

    def _until_the_end(self) -> Iterator[Status]:
        """Yield the status at each look until it is final and the result is here, and say when it changes.

        Raises:
            BackendError: no answer for ten minutes, no node in time, no end in time, or a result that cannot
                be brought now; the run goes on.
        """
        self._answered = self._answered or time.monotonic()
        waiting_since: float | None = None
        running_since: float | None = None
        go_on = f"watch it again: follow {self.folder}; end it: cancel {self.folder}"
        queue_timeout = self.config.queue_timeout
        max_seconds = self.config.max_duration * 60 + ENDING_SECONDS
        while True:
            try:
                status = self.status()
            except ServiceError as error:
                raise BackendError(f"{error.message}; the run goes on", go_on) from error
            now = time.monotonic()
            self._report_state(status, queue_timeout, max_seconds)
            yield status
            if status is Status.lost or self._has_ended():
                return
            if status.is_final:  # another has resumed it since
                self._looked = None
            elif self._has_result_to_download:
                self._download_result()
            elif self._preempted is not None:
                self._resubmit()
                waiting_since = running_since = None
            elif status in (Status.queued, Status.preparing):
                waiting_since, running_since = waiting_since or now, None
                if now - waiting_since > queue_timeout:
                    message = (
                        f"the run is still {status.value} after {queue_timeout} seconds: no node took it"
                    )
                    raise BackendError(f"{message}; it goes on waiting", go_on)
            else:
                waiting_since, running_since = None, running_since or now
                if now - running_since > max_seconds:
                    raise BackendError(f"the run has not ended after {max_seconds:.0f} seconds", go_on)
            time.sleep(POLL_SECONDS / 4)

    def _report_state(self, status: Status, queue_timeout: float, max_seconds: float) -> None:
        """Say where the run stands, where that is news, and how long that is waited for."""
        if self._state == self._told:
            return
        from humanize import precisedelta

        self._told = self._state
        limit = {
            Status.queued: queue_timeout,
            Status.preparing: queue_timeout,
            Status.running: max_seconds,
        }.get(status)
        waits = "" if limit is None else f"; waiting for {precisedelta(limit)} at most"
        say(f"{self.folder.name} is {status.value} ({self._state}){waits}")

    def _download_result(self) -> None:
        """Bring an ended run's result here, once, and enter the end.

        Raises:
            BackendError: that cannot be done now.
        """
        with self._lock, run_folder.lock(self.folder, DOWNLOAD_SECONDS):
            if self._has_ended() or run_folder.read_receipt(self.folder).id != self._seen_id:
                return
            try:
                outputs.bring(self._run(), self.folder)
            except outputs.NoResult as error:
                run_folder.record_end(self.folder, Status.failed, self._failed or error)
            except outputs.NotWhole:
                if self._failed is None:
                    raise
                run_folder.record_end(self.folder, Status.failed, self._failed)
            except ServiceError as error:
                if self._failed is not None and error.status == 404:  # noqa: PLR2004
                    run_folder.record_end(self.folder, Status.failed, self._failed)
                    return
                ended = self._failed.message if self._failed is not None else "the run has ended"
                message = f"{error.message}; {ended}, and the service keeps what it left"
                raise BackendError(message, f"bring it: follow {self.folder}") from error
            else:
                if self._failed is not None:
                    say(f"{self._failed.message}; but its training had ended, and its result is whole")
                run_folder.record_end(self.folder, Status.completed)
