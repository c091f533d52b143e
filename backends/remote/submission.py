"""Submits a job.

Prepares what it needs, then starts the run with one request. The receipt names the run before the service
knows it, so that the run can't be lost whatever happens here.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import log
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.failures import (
    NodesRefused,
    StartedButUnrecorded,
    SubmissionUnknown,
    Superseded,
    follow_hint,
    resize_hint,
    status_hint,
)
from mnist_cnn.backends.remote.service import CHECKPOINTS, Handle, ServiceError
from mnist_cnn.backends.remote.state import CANCELLED
from mnist_cnn.backends.remote.submitter import SUBMITTER, this_process
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    Interrupted,
    MnistCnnError,
    RunCancelled,
    storage_error,
)
from mnist_cnn.hints import command_line
from mnist_cnn.receipt import Receipt
from mnist_cnn.terminal import signals
from mnist_cnn.training.runtime import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Observation, Service
    from mnist_cnn.job import Job

CHECKPOINTS_FOLDER = "mnist-cnn-checkpoints"
"""The store's folder for checkpoints.

A run that is started again continues from there.
"""
SUBMIT_SECONDS = 600.0
"""Time limit of the request that starts a run."""
INTERRUPTED = (
    "interrupted; the run may have started, so the command waits for the service's answer, "
    f"for up to {SUBMIT_SECONDS / 60:.0f} minutes"
)
LATE_START_SECONDS = 30.0
"""How long to search after an unanswered submission."""
FORCE, PAUSE_AFTER, REFUSED = "force", "pause_after", "refused"
"""Keys of the receipt's `service`.

They mean: the run is resumed even if the job or the runtime has changed; the epoch after which it pauses; the
nodes that the service could not provide.
"""


def submit(  # noqa: PLR0913 - only the first three are required
    job: Job,
    service: Service,
    folder: Path,
    status: Status | None = None,
    *,
    force: bool = False,
    pause_after: int | None = None,
) -> None:
    """Submit a run folder's job.

    Resumes the run if the folder has an ended one, whose `status` is given. `force` and `pause_after` are
    those of `Service.request`.

    Raises:
        ConfigurationError: the run is under way or completed, or the service has refused its nodes.
        BackendError: the service refuses the job.
        StartedButUnrecorded, SubmissionUnknown: the run has, or may have, started; the receipt names it.
        Superseded: another process has submitted the run.
    """
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    if before is not None:
        status = status or before.status
        run_folder.check_resumable(folder, status)
        if service.nodes and before.service.get(REFUSED) == service.nodes and not force:
            message = f"{folder} cannot be resumed: the service could not create {service.nodes}"
            same = f"try the same size again: {command_line('resume', folder, 'force=true')}"
            raise ConfigurationError(message, f"{resize_hint(folder, service.nodes_setting)}; or {same}")
    with run_folder.lock(folder):  # another process may resume the run too
        if before is not None:
            now = run_folder.read_receipt(folder)
            is_same = (now.id, now.backend) == (before.id, service.config.name)
            run_folder.check_resumable(folder, status if is_same and status else now.status)
        _write_receipt(job, service, folder, force=force, pause_after=pause_after)
    handle = Handle.of(folder)
    try:
        submit_named(job, service, handle)
    finally:
        clear_submitter(handle)


def submit_named(job: Job, service: Service, handle: Handle, reason: str | None = None) -> None:
    """Submit the receipt's run; record a failure.

    Raises as `submit` does. `reason` is why a run whose node was lost is submitted again.
    """
    folder = handle.folder
    try:
        log.mark_restart(folder, reason)
        _send(job, service, handle)
    except (StartedButUnrecorded, Superseded):
        raise
    except SubmissionUnknown as error:
        raise submission_unknown(error, folder, is_abandoned=error.is_abandoned) from error
    except RunCancelled as error:
        run_folder.record_end_of(folder, handle.id, Status.cancelled, error)
        raise
    except MnistCnnError as error:
        is_transient = isinstance(error, ServiceError) and error.is_transient
        if (
            reason is None or not is_transient
        ):  # a resubmission restores the receipt after a transient failure
            _record_not_started(service, handle, error)
        raise
    except OSError as error:  # of the temporary folder, or a data file that was removed
        failure = storage_error(error, str(error.filename or tempfile.gettempdir()), "TMPDIR=FOLDER")
        _record_not_started(service, handle, failure)
        raise failure from error
    except KeyboardInterrupt:
        raise _record_interrupt(handle) from None


def _record_not_started(service: Service, handle: Handle, error: MnistCnnError) -> None:
    folder = handle.folder
    again = f"start the run: {command_line('resume', folder)}"
    if isinstance(error, NodesRefused):
        again = resize_hint(folder, service.nodes_setting)
        _change_service(handle, lambda now: now | {REFUSED: service.nodes})
    error.then(again)
    run_folder.record_end_of(folder, handle.id, Status.failed, error)


def _record_interrupt(handle: Handle) -> Interrupted:
    """Record a Ctrl-C; return the error to raise."""
    folder = handle.folder
    if _has_started(handle):
        return Interrupted(f"interrupted; {folder} has started and is still running", follow_hint(folder))
    hint = f"start it: {command_line('resume', folder)}"
    error = RunCancelled("interrupted before the run was submitted", hint)
    run_folder.record_end_of(folder, handle.id, Status.cancelled, error)
    return Interrupted(f"interrupted before {folder} was submitted", error.hint)


def _write_receipt(job: Job, service: Service, folder: Path, *, force: bool, pause_after: int | None) -> None:
    """Write the receipt with a new run id."""
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    is_ours = before is not None and before.backend == service.config.name
    run_id = service.new_id()
    prefix = before.service.get(CHECKPOINTS) if before is not None and is_ours else None
    receipt = Receipt(
        backend=service.config.name,
        id=run_id,
        job_digest=job.digest,
        status=Status.preparing,
        created=before.created if before is not None else run_folder.creation_time(folder),
        backend_settings=service.settings(),
        versions=versions(),
        started=time.time(),
        service={
            **service.place(),
            CHECKPOINTS: prefix or f"{CHECKPOINTS_FOLDER}/{run_id}",
            SUBMITTER: this_process(),
            **({FORCE: "true"} if force else {}),
            **({PAUSE_AFTER: str(pause_after)} if pause_after is not None else {}),
        },
    )
    run_folder.write_receipt(folder, receipt)


def clear_submitter(handle: Handle) -> None:
    """Remove the submitter from the receipt."""

    def without_submitter(service: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in service.items() if name != SUBMITTER}

    with suppress(BackendError):  # a full disk; others will see that this process has ended
        _change_service(handle, without_submitter)


def _change_service(handle: Handle, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    def changed(receipt: Receipt) -> Receipt:
        return dataclasses.replace(receipt, service=change(receipt.service))

    run_folder.update_receipt(handle.folder, handle.id, changed)


def _send(job: Job, service: Service, handle: Handle) -> None:
    """Send everything that the run needs, and start it."""
    pause_after = int(handle.place[PAUSE_AFTER]) if PAUSE_AFTER in handle.place else None
    request = service.request(job, force=FORCE in handle.place, pause_after=pause_after)
    with _costs_reported(service, handle), service.prepare(handle, request) as prepared:
        _check_not_superseded(handle)
        with signals.defer_signals(INTERRUPTED):  # a run that was started must be recorded
            page = start(service, handle, partial(service.start, handle, request, prepared))
            record_start(service, handle, page)
    try:
        service.on_started(handle, request)
    except ServiceError as error:
        report(f"{error.message}; the run continues without it")


def _check_not_superseded(handle: Handle) -> None:
    """Check that this process must still start the run.

    A cluster takes minutes. Raises RunCancelled, or Superseded if another process believed this one to be
    dead.
    """
    now = run_folder.read_receipt(handle.folder)
    if now.id != handle.id:
        raise _superseded(handle.folder)
    if CANCELLED in now.service:
        hint = f"start it: {command_line('resume', handle.folder)}"
        raise RunCancelled("the run was cancelled before it started", hint)


def _superseded(folder: Path) -> Superseded:
    message = f"another process has submitted {folder} in the meantime"
    return Superseded(message, f"watch it: {command_line('follow', folder)}")


def start(service: Service, handle: Handle, request: Callable[[], str]) -> str:
    """Start the run and return its page.

    Also returns it if the service reports a failure but has started the run.
    """
    try:
        return request()
    except ServiceError as error:
        if _search(service, handle, error) is None:
            raise
        report("the run has started")
        return service.page(handle)


def _search(service: Service, handle: Handle, error: ServiceError) -> Observation | None:
    """Search for the run after a failed start.

    Returns None if it has not started. After a transient failure the service may start the run late, so the
    search takes a while. Raises SubmissionUnknown.
    """
    deadline = time.monotonic() + (LATE_START_SECONDS if error.is_transient else 0.0)
    report(f"{error.message}; checking whether the run has started anyway")
    while True:
        try:
            found = with_retries(lambda: service.find(handle))
        except ServiceError:
            raise SubmissionUnknown(error.message, is_abandoned=error.is_abandoned) from error
        if found is not None:
            return found
        if time.monotonic() > deadline:
            if error.is_abandoned:
                raise SubmissionUnknown(error.message, is_abandoned=True) from error
            return None
        time.sleep(LATE_START_SECONDS / 6)


def submission_unknown(error: ServiceError, folder: Path, *, is_abandoned: bool) -> SubmissionUnknown:
    """Return the error for a possibly started run."""
    message = f"{error.message}; it is not known whether {folder} has started"
    return SubmissionUnknown(message, status_hint(folder), is_abandoned=is_abandoned)


def record_start(service: Service, handle: Handle, page: str) -> None:
    """Record that the run has started.

    Cancels it and raises Superseded if the receipt names another. Raises StartedButUnrecorded if the local
    disk refuses the receipt.
    """
    folder = handle.folder

    def queued(receipt: Receipt) -> Receipt:
        status = receipt.status if receipt.status.is_final else Status.queued
        return dataclasses.replace(receipt, status=status, url=page or None)

    try:
        if run_folder.update_receipt(folder, handle.id, queued):
            return
    except BackendError as error:
        message = f"{error.message}; {folder} has started and is still running"
        raise StartedButUnrecorded(message, f"{error.hint}; then {follow_hint(folder)}") from error
    superseded = _superseded(folder)
    try:
        with_retries(lambda: service.cancel(handle))
    except ServiceError as error:
        hint = f"cancel {handle.id} {service.pages}{f': {page}' if page else ''}"
        raise Superseded(f"{superseded.message}, and {error.message}", hint) from error
    raise superseded


def _has_started(handle: Handle) -> bool:
    """Return whether the receipt records the start."""
    return run_folder.read_receipt(handle.folder).status is not Status.preparing


@contextmanager
def _costs_reported(service: Service, handle: Handle) -> Iterator[None]:
    """Report costs if the run does not start."""
    try:
        yield
    except (MnistCnnError, OSError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            if _has_started(handle):
                raise
            report("interrupted; checking what the cluster costs (Ctrl-C skips this)")
        for line in service.costs(handle):
            report(line)
        raise
