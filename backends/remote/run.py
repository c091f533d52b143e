"""A run on a cluster, found through its folder."""

from __future__ import annotations

import dataclasses
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.backends import common
from mnist_cnn.backends.remote import checkpoints, log, outputs, resubmission, state
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.failures import follow_hint, resume_hint, status_hint
from mnist_cnn.backends.remote.service import CHECKPOINTS, Handle, ServiceError
from mnist_cnn.backends.remote.state import (
    CANCELLED,
    POLL_SECONDS,
    UNKNOWN,
    Action,
    Download,
    GiveUp,
    Poll,
    RecordEnd,
    Report,
    State,
)
from mnist_cnn.backends.remote.submission import CHECKPOINTS_FOLDER
from mnist_cnn.backends.remote.submitter import is_at_work
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, RunPaused
from mnist_cnn.hints import command_line
from mnist_cnn.result import Progress, Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Service

DOWNLOAD_SECONDS = 1800.0
"""How long to wait for another process's download."""
CANCEL_SECONDS = 300.0
CANCEL_AGAIN_SECONDS = 10.0
"""Pause before the request to cancel is repeated.

It isn't repeated if the run is being cancelled.
"""


class RemoteRun:
    """A run on a cluster.

    Each poll writes what is new into the run folder. A run that the service has completed is `finalizing`
    until its result is downloaded. One whose node was lost is `queued` until a process that follows it
    submits it again. Any process may do that at any moment, and the receipt then names another run of the
    service.
    """

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder = folder
        self.service = service
        run_folder.read_receipt(folder)  # raises if it isn't valid
        self._state = State()
        self._lock = threading.RLock()
        self._reported = State()  # the last reported one

    def __repr__(self) -> str:
        return common.describe_run(self)

    @property
    def handle(self) -> Handle:
        """Return the run that the receipt names now."""
        return Handle.of(self.folder)

    def status(self) -> Status:
        """Return the run's status.

        Asks the service unless it was asked a moment ago.
        """
        with self._lock:
            if time.monotonic() >= self._state.poll_at and not self._has_ended():
                self._poll()
            return run_folder.read_receipt(self.folder).status if self._has_ended() else self._state.status

    def progress(self) -> Progress | None:
        if self._state.status is Status.running:
            return run_folder.read_progress(self.folder) or Progress("preparing")
        return Progress(self._state.status.value)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        reader = common.LogReader(self.folder)
        if not follow:
            try:
                self.status()
            except MnistCnnError as error:  # the log so far can be read anyway
                report(error.message)
            yield from reader.new_lines(is_last=True)
            return
        if (page := run_folder.read_receipt(self.folder).url) is not None:
            report(f"watch it {self.service.pages}: {page}")
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
        """Cancel the run and wait until it has ended.

        Raises BackendError after five minutes. An ended run whose result is damaged is recorded as cancelled,
        so that it can be resumed.
        """
        try:
            self._cancel()
        except outputs.ResultDamaged as error:
            given_up = RunCancelled(f"the run was cancelled: {error.message}", resume_hint(self.folder))
            run_folder.record_end_of(self.folder, self._state.id, Status.cancelled, given_up)

    def _cancel(self) -> None:
        if self._refresh().is_final:
            return
        with run_folder.lock(self.folder):  # from now on no process submits it again
            receipt = run_folder.read_receipt(self.folder)
            marked = dataclasses.replace(receipt, service=receipt.service | {CANCELLED: "true"})
            run_folder.write_receipt(self.folder, marked)
        self._poll_soon()
        deadline = time.monotonic() + CANCEL_SECONDS
        while not (status := self._refresh()).is_final and self._state.name == UNKNOWN:
            self._pause_before(deadline, "the run is marked as cancelled, but is still being submitted")
        if status.is_final:  # its node was lost, or its submission saw the mark in time
            return
        minutes = f"{CANCEL_SECONDS / 60:.0f} minutes"
        is_requested = False
        requested_at, deadline = -CANCEL_AGAIN_SECONDS, time.monotonic() + CANCEL_SECONDS
        while not self._refresh().is_final:
            handle = self.handle
            if CANCELLED not in handle.place:  # it has ended, and another process has resumed it
                return
            is_due = time.monotonic() - requested_at > CANCEL_AGAIN_SECONDS
            if is_due and not self._state.seen.is_cancelling:
                with_retries(partial(self.service.cancel, handle))
                requested_at = time.monotonic()
                if not is_requested:
                    report(f"cancelling the run; waiting for up to {minutes}")
                is_requested = True
            name = self._state.name
            self._pause_before(deadline, f"the run is still {name} {minutes} after its cancellation")

    def _pause_before(self, deadline: float, message: str) -> None:
        """Pause before a poll. Raises BackendError after the deadline."""
        if time.monotonic() > deadline:
            raise BackendError(message, status_hint(self.folder))
        time.sleep(POLL_SECONDS)
        self._poll_soon()

    def download_checkpoints(self) -> None:
        """Download the run's checkpoints from the store."""
        with run_folder.lock(self.folder, DOWNLOAD_SECONDS):  # a trainer that starts removes partial files
            handle = self.handle
            if CHECKPOINTS in handle.place:
                store = self.service.store(handle)
                checkpoints.download(store, handle.checkpoints, self.folder)

    def stored_checkpoints(self) -> dict[str, int]:
        """Return checkpoint files outside the run folder.

        Values are their lengths in bytes.
        """
        handle = self.handle
        if self.service.store_is_in_run_folder or CHECKPOINTS not in handle.place:
            return {}
        if not handle.checkpoints.startswith(f"{CHECKPOINTS_FOLDER}/") or ".." in handle.checkpoints:
            message = f"{handle.checkpoints} is not a folder of checkpoints"
            raise BackendError(message, f"{self.folder / run_folder.RECEIPT} was changed by hand")
        found = checkpoints.stored(self.service.store(handle), handle.checkpoints)
        return {name: blob.bytes for name, blob in found.items()}

    def remove_stored_checkpoints(self, names: Iterable[str]) -> None:
        """Remove files from `stored_checkpoints`. Raises BackendError."""
        checkpoints.remove(self.service.store(self.handle), names)

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        """Register the run's model."""
        result = common.check_can_register(self.folder, self._refresh(), name, min_accuracy)
        with run_folder.lock(self.folder):  # of two that register at once, one finds the other's version
            return self.service.register(self.handle, name, result)

    def cost_report(self) -> Iterator[str]:
        """Yield lines on costs, and how to stop them."""
        return self.service.costs(self.handle)

    def _has_ended(self) -> bool:
        """Return whether the receipt records the end.

        A lost run may still be found.
        """
        status = run_folder.read_receipt(self.folder).status
        return status.is_final and status is not Status.lost

    def _refresh(self) -> Status:
        """Return the status, after downloading a completed run's result."""
        status = self.status()
        ending = self._state.ending
        if ending is not None and not ending.starts_again and not status.is_final:
            self._download_result()
            status = self.status()
        return status

    def _poll_soon(self) -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, poll_at=0.0)

    def _poll(self) -> None:
        """Poll the service and the log, then act."""
        receipt = run_folder.read_receipt(self.folder)  # once, because another process may write it
        handle = Handle(self.folder, receipt.id, receipt.service)
        try:
            found = self.service.find(handle)
            news = log.fetch(self.service, handle) if found is not None and found.has_log else False
        except ServiceError as error:
            self._state, actions = state.after_outage(self._state, error, time.monotonic())
        else:
            place = run_folder.read_receipt(self.folder).service  # another process may have cancelled it
            poll = Poll(dataclasses.replace(handle, place=place), found, news, is_at_work(receipt))
            if found is not None and found.status.is_final:
                has_started, failure = log.has_training_started(self.folder), log.failure(self.folder)
                poll = dataclasses.replace(poll, has_started=has_started, failure=failure)
            self._state, actions = state.advance(self._state, poll, self.service.limits, time.monotonic())
        self._carry_out(actions)

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Report(line):
                    report(line)
                case GiveUp(error):
                    raise error
                case RecordEnd(status, error):
                    run_folder.record_end_of(self.folder, self._state.id, status, error)
                case Download():
                    try:
                        self._download_result()
                    except BackendError as error:
                        report(error.message)

    def _watch(self) -> Iterator[Status]:
        """Yield each polled status until the result is downloaded.

        Raises BackendError if the service did not answer for ten minutes, if the run got no node or did not
        end in time, or if its result can't be downloaded now.
        """
        with self._lock:
            if self._state.answered_at is None:
                self._state = dataclasses.replace(self._state, answered_at=time.monotonic())
        wait, failing_since = None, None
        while True:
            try:
                status = self.status()
            except ServiceError as error:
                message = f"{error.message}; the run is still running"
                raise BackendError(message, follow_hint(self.folder)) from error
            seen = self._state  # once, because another thread may poll too
            self._report_state(seen)
            yield status
            if status is Status.lost or self._has_ended():
                return
            if status.is_final:  # another process has resumed it since
                self._poll_soon()
            elif seen.ending is None:
                wait = state.wait_on(wait, status, self.service.limits, self.folder, time.monotonic())
            elif seen.ending.starts_again:
                failing_since = self._resubmit(seen.id, seen.ending, failing_since)
                wait = None
            else:
                self._download_result()
            time.sleep(POLL_SECONDS / 4)

    def _resubmit(self, lost_id: str, ending: state.Ending, failing_since: float | None) -> float | None:
        """Submit a run again after its node was lost.

        Returns since when that has been failing, or None. Raises as `wait_or_give_up` and `resubmit` do.
        """
        answered_at = self._state.answered_at
        reason = ending.error.message if ending.error is not None else "the node was lost"
        try:
            resubmission.resubmit_in_thread(self.folder, self.service, lost_id, reason)
        except ServiceError as error:
            failing_since = failing_since or time.monotonic()
            resubmission.wait_or_give_up(self.folder, error, time.monotonic() - failing_since)
            return failing_since
        else:
            answered_at = time.monotonic()
            return None
        finally:
            with self._lock:
                self._state = State(answered_at=answered_at)

    def _report_state(self, seen: State) -> None:
        """Report a new state and its time limit."""
        is_explained = seen.ending is not None and seen.ending.error is not None
        if seen.name == self._reported.name or is_explained:
            return
        from humanize import precisedelta

        is_new, limit = seen.status is not self._reported.status or not self._reported.name, ""
        self._reported = seen
        limits = self.service.limits
        what = {Status.queued: "waiting for a node"}
        if seen.name != UNKNOWN:
            what[Status.preparing] = f"{limits.preparing}; waiting"
        if is_new and seen.status in (Status.preparing, Status.queued, Status.running):
            seconds = precisedelta(state.seconds_in(seen.status, limits))
            limit = f"; {what.get(seen.status, 'waiting')} for up to {seconds}"
        report(f"{self.folder.name} is {seen.status.value} ({seen.name}){limit}")

    def _download_result(self) -> None:
        """Download the result once; record the end.

        Raises BackendError.
        """
        with self._lock, run_folder.lock(self.folder, DOWNLOAD_SECONDS):
            handle = self.handle
            if self._has_ended() or handle.id != self._state.id:
                return
            failure = self._state.ending.error if self._state.ending is not None else None
            try:
                outputs.download(self.service, handle)
            except RunPaused as error:
                run_folder.record_end(self.folder, Status.paused, error)
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
                hint = f"download them: {command_line('follow', self.folder)}"
                raise BackendError(message, hint) from error
            else:
                if failure is not None:
                    whole = "its training succeeded, and every file matches the checksum in its result"
                    report(f"{failure.message}; but {whole}")
                run_folder.record_end(self.folder, Status.completed)
