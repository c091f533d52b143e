"""Submits a run again after its node was lost.

It resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.failures import SubmissionUnknown
from mnist_cnn.backends.remote.parallel import start_thread
from mnist_cnn.backends.remote.service import Handle, ServiceError
from mnist_cnn.backends.remote.state import CANCELLED, OUTAGE_SECONDS, RESTARTS, SLOW_POLL_SECONDS, restarts
from mnist_cnn.backends.remote.submission import (
    clear_submitter,
    record_start,
    submission_unknown,
    submit_named,
)
from mnist_cnn.backends.remote.submitter import SUBMITTER, this_process
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.hints import command_line
from mnist_cnn.training.runtime import changed_versions, versions

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Service
    from mnist_cnn.job import Job
    from mnist_cnn.receipt import Receipt


def resubmit_in_thread(folder: Path, service: Service, lost_id: str, reason: str) -> None:
    """Submit the run again, in a thread.

    Raises as `resubmit` does. The thread isn't a daemon: Python waits for the submission at its exit, even if
    Ctrl-C ends the wait here. If the service has an outage, or Python exits before all files are sent, the
    receipt stays as it was, and the run can be submitted again later.
    """
    submission = start_thread(partial(resubmit, folder, service, lost_id, reason), daemon=False)
    wait([submission])
    if (error := submission.exception()) is not None:
        raise error


def wait_or_give_up(folder: Path, error: ServiceError, seconds: float) -> None:
    """Pause after a transient failure.

    Raises BackendError after ten minutes, and any other error at once.
    """
    if not error.is_transient:
        raise error
    left = OUTAGE_SECONDS - seconds
    if left < 0:
        again, cancel = (command_line(word, folder) for word in ("follow", "cancel"))
        hint = f"submit it again: {again}; cancel it: {cancel}"
        raise BackendError(f"{error.message}; the run was not submitted again", hint) from error
    report(f"{error.message}; retrying for up to {left:.0f} seconds")
    time.sleep(SLOW_POLL_SECONDS)


def resubmit(folder: Path, service: Service, lost_id: str, reason: str) -> None:
    """Submit a run again after its node was lost.

    Does nothing if it was cancelled or if another process has submitted it. `lost_id` is the id of the lost
    run. A transient failure leaves the receipt as it was. Raises BackendError as `submit` does, or if this
    machine differs from the one that started the run.
    """
    job = run_folder.read_job(folder)
    _check_machine(service, job, folder)
    with run_folder.lock(folder):  # another process may follow the run too
        before = run_folder.read_receipt(folder)
        if before.id != lost_id or CANCELLED in before.service:
            return
        number = restarts(before.service) + 1
        place = before.service | {RESTARTS: str(number), SUBMITTER: this_process()}
        again = dataclasses.replace(
            before, id=service.new_id(), status=Status.preparing, url=None, service=place
        )
        run_folder.write_receipt(folder, again)
    handle = Handle(folder, again.id, again.service)
    reason = f"{reason}; submitting the run again, {number} of {service.limits.restarts}"
    report(reason)
    try:
        submit_named(job, service, handle, reason)
    except ServiceError as error:
        if isinstance(error, SubmissionUnknown) and _has_started(service, handle):
            record_start(service, handle, service.page(handle))
            return
        if error.is_transient:  # the run has not started
            run_folder.update_receipt(folder, again.id, partial(_restored, before))
        raise
    finally:
        clear_submitter(handle)


def _restored(before: Receipt, now: Receipt) -> Receipt:
    """Return the earlier receipt, with a new cancellation kept."""
    mark = {name: value for name, value in now.service.items() if name == CANCELLED}
    return dataclasses.replace(before, service=before.service | mark)


def _has_started(service: Service, handle: Handle) -> bool:
    """Return whether the service knows the run.

    Retries for up to OUTAGE_SECONDS in an outage. Raises SubmissionUnknown.
    """
    since = time.monotonic()
    while True:
        try:
            return service.find(handle) is not None
        except ServiceError as error:
            left = OUTAGE_SECONDS - (time.monotonic() - since)
            if not error.is_transient or left < 0:
                raise submission_unknown(error, handle.folder, is_abandoned=True) from error
            report(f"{error.message}; retrying for up to {left:.0f} seconds")
            time.sleep(SLOW_POLL_SECONDS)


def _check_machine(service: Service, job: Job, folder: Path) -> None:
    """Check that this machine can resubmit. Raises BackendError."""
    then = run_folder.read_receipt(folder).versions
    from_here = f"{command_line('cancel', folder)}, then {command_line('resume', folder, 'force=true')}"
    hint = f"follow it on the machine that started it; or from here: {from_here}"
    changed = changed_versions(then, versions()) if then else ()
    if changed:
        raise BackendError(f"the run's node was lost, and this machine has {', '.join(changed)}", hint)
    try:
        service.check(job)
    except MnistCnnError as error:
        message = f"the run's node was lost, and this machine cannot submit the run again: {error.message}"
        raise BackendError(message, error.hint or hint) from error
