"""Submits a job: sends data and code, prepares the cluster, then starts the run with one request.

The receipt names the run before the service knows it, so that the run can't be lost whatever happens here.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import checkpoints, checks, cluster, log, plan, snapshot, upload
from mnist_cnn.backends.azure.failures import (
    ClusterRefused,
    StartedButUnrecorded,
    SubmissionUnknown,
    Superseded,
    follow_hint,
    status_hint,
)
from mnist_cnn.backends.azure.parallel import run_parallel, start_thread
from mnist_cnn.backends.azure.run import (
    CANCELLED,
    OUTAGE_SECONDS,
    RETRIES,
    SLOW_POLL_SECONDS,
    AzureRun,
    find_run,
    retries,
)
from mnist_cnn.backends.azure.service import ServiceError, call, call_with_retries, report
from mnist_cnn.backends.azure.submitter import SUBMITTER, this_process
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    Interrupted,
    MnistCnnError,
    RunCancelled,
    command_on,
    storage_error,
)
from mnist_cnn.terminal import signals
from mnist_cnn.training.runtime import changed_versions, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.job import Job

CHECKPOINTS = "mnist-cnn-checkpoints"
"""Folder of the datastore from which a run continues that the service or `resume` starts again."""
REUSE_SECONDS = 60.0
"""How long the next run of this process may rely on an upload and on the cluster's state."""
SUBMIT_SECONDS = 600.0
INTERRUPTED = (
    "interrupted; the run may have started, so the command waits for the service's answer, "
    f"for up to {SUBMIT_SECONDS / 60:.0f} minutes"
)
LATE_START_SECONDS = 30.0
"""How long to search for a run after its submission was not answered."""
FORCE, REFUSED = "force", "refused"
"""Keys of the receipt's `service`: the run is resumed even if the job or the runtime has changed; the cluster
that the service could not create for it."""

_done_at: dict[tuple[Any, ...], float] = {}
"""When this process last sent some data files, or found a cluster ready."""


def submit(job: Job, config: AzureConfig, folder: Path, *, force: bool = False) -> AzureRun:
    """Submit a run folder's job; resume it if the folder has an ended run.

    `force` resumes even if the job or the runtime has changed.

    Raises:
        ConfigurationError: the run is under way or completed, or the service has refused its cluster.
        BackendError: the service refuses the job.
        StartedButUnrecorded, SubmissionUnknown: the run has, or may have, started; the receipt names it.
        Superseded: another process has submitted the run.
    """
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    if before is not None:
        is_azure = before.backend == config.name
        status = AzureRun(folder, config, resubmit).status() if is_azure else before.status
        run_folder.check_resumable(folder, status)
        if before.service.get(REFUSED) == _cluster(config) and not force:
            message = f"{folder} cannot be resumed: the service could not create {_cluster(config)}"
            same = f"try the same size again: {command_on('resume', folder, 'force=true')}"
            raise ConfigurationError(message, f"{_resize_hint(folder)}; or {same}")
    with run_folder.lock(folder):  # another process may resume the run too
        if before is not None:
            now = run_folder.read_receipt(folder)
            is_same = (now.id, now.backend) == (before.id, config.name)
            run_folder.check_resumable(folder, status if is_same else now.status)
        run_id = _write_receipt(job, config, folder, force=force)
    run = AzureRun(folder, config, resubmit)
    try:
        _submit_named(job, run, run_id)
    finally:
        _clear_submitter(folder, run_id)
    return run


def resubmit(run: AzureRun, preempted_id: str, reason: str) -> None:
    """Submit a preempted run again, unless it was cancelled or another process has submitted it.

    `preempted_id` is the run's id in the service. A transient failure leaves the receipt as it was.

    Raises:
        BackendError: as `submit`, or this machine differs from the one that started the run.
    """
    job = run_folder.read_job(run.folder)
    before = run_folder.read_receipt(run.folder)
    _check_machine(run, job, before)
    with run_folder.lock(run.folder):  # another process may follow the run too
        before = run_folder.read_receipt(run.folder)
        if before.id != preempted_id or CANCELLED in before.service:
            return
        number = retries(before) + 1
        service = before.service | {RETRIES: str(number), SUBMITTER: this_process()}
        again = dataclasses.replace(
            before, id=_new_id(run.config), status=Status.preparing, url=None, service=service
        )
        run_folder.write_receipt(run.folder, again)
    reason = f"{reason}; submitting the run again, {number} of {run.config.preemption_retries}"
    report(reason)
    try:
        _submit_named(job, run, again.id, reason)
    except ServiceError as error:
        if isinstance(error, SubmissionUnknown) and (started := _find_started(run, again.id)) is not None:
            record_start(run, started)
            return
        if error.is_transient:  # the run has not started
            run_folder.update_receipt(run.folder, again.id, partial(_restored, before))
        raise
    finally:
        _clear_submitter(run.folder, again.id)


def _restored(before: run_folder.Receipt, now: run_folder.Receipt) -> run_folder.Receipt:
    """Return the receipt from before the resubmission, marked as cancelled if it is so now."""
    mark = {name: value for name, value in now.service.items() if name == CANCELLED}
    return dataclasses.replace(before, service=before.service | mark)


def _find_started(run: AzureRun, run_id: str) -> Any | None:
    """Return the SDK's run, or None if it hasn't started; retry in an outage. Raises SubmissionUnknown."""
    workspace, since = run.workspace(), time.monotonic()
    while True:
        try:
            return call("find the run", lambda: find_run(workspace, run_id))
        except ServiceError as error:
            if error.is_not_found:
                return None
            left = OUTAGE_SECONDS - (time.monotonic() - since)
            if not error.is_transient or left < 0:
                raise _submission_unknown(error, run.folder, is_abandoned=True) from error
            report(f"{error.message}; retrying for up to {left:.0f} seconds")
            time.sleep(SLOW_POLL_SECONDS)


def _submission_unknown(error: ServiceError, folder: Path, *, is_abandoned: bool) -> SubmissionUnknown:
    message = f"{error.message}; it is not known whether {folder} has started"
    return SubmissionUnknown(message, status_hint(folder), is_abandoned=is_abandoned)


def _check_machine(run: AzureRun, job: Job, receipt: run_folder.Receipt) -> None:
    """Check that this machine can submit the run again. Raises BackendError."""
    from_here = f"{command_on('cancel', run.folder)}, then {command_on('resume', run.folder, 'force=true')}"
    hint = f"follow it on the machine that started it; or from here: {from_here}"
    changed = changed_versions(receipt.versions, versions()) if receipt.versions else ()
    if changed:
        raise BackendError(f"the node was preempted, and this machine has {', '.join(changed)}", hint)
    try:
        plan.request(job, run.config)
        checks.check_all(run.config)
    except MnistCnnError as error:
        message = f"the node was preempted, and this machine cannot submit the run again: {error.message}"
        raise BackendError(message, error.hint or hint) from error


def _submit_named(job: Job, run: AzureRun, run_id: str, reason: str | None = None) -> None:
    """Submit a job whose run the receipt names; record a failure. Raises as `submit` does.

    `reason` is why a preempted run is submitted again.
    """
    folder = run.folder
    try:
        log.mark_restart(folder, reason)
        _send(job, run, run_id)
    except (StartedButUnrecorded, Superseded):
        raise
    except SubmissionUnknown as error:
        raise _submission_unknown(error, folder, is_abandoned=error.is_abandoned) from error
    except RunCancelled as error:
        run_folder.record_end_of(folder, run_id, Status.cancelled, error)
        raise
    except MnistCnnError as error:
        is_transient = isinstance(error, ServiceError) and error.is_transient
        if reason is None or not is_transient:  # `resubmit` restores the receipt after a transient failure
            _record_not_started(run, run_id, error)
        raise
    except OSError as error:  # of the temporary folder, or a data file that was removed
        failure = storage_error(error, str(error.filename or tempfile.gettempdir()), "TMPDIR=FOLDER")
        _record_not_started(run, run_id, failure)
        raise failure from error
    except KeyboardInterrupt:
        raise _record_interrupt(folder, run_id) from None


def _record_not_started(run: AzureRun, run_id: str, error: MnistCnnError) -> None:
    again = f"start the run: {command_on('resume', run.folder)}"
    if isinstance(error, ClusterRefused):
        again = _resize_hint(run.folder)
        refused = {REFUSED: _cluster(run.config)}
        run_folder.update_receipt(
            run.folder, run_id, lambda now: dataclasses.replace(now, service=now.service | refused)
        )
    error.hint = "; ".join(filter(None, (error.hint, f"then {again}")))
    run_folder.record_end_of(run.folder, run_id, Status.failed, error)


def _cluster(config: AzureConfig) -> str:
    """Return the cluster that a submission creates if it is missing, in words."""
    return f"cluster {config.cluster} with {config.nodes}"


def _resize_hint(folder: Path) -> str:
    """Return the hint for a run whose receipt has a VM size that the service has refused."""
    return f"start the run with another size: {command_on('resume', folder, 'backend.vm_size=SIZE')}"


def _write_receipt(job: Job, config: AzureConfig, folder: Path, *, force: bool) -> str:
    """Write the receipt with the id of the run that will be started; return the id."""
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    run_id = _new_id(config)
    prefix = before.service.get("checkpoints") if before is not None else None
    receipt = run_folder.Receipt(
        backend=config.name,
        id=run_id,
        job_digest=job.digest,
        status=Status.preparing,
        created=before.created if before is not None else run_folder.creation_time(folder),
        backend_settings=_settings(config),
        versions=versions(),
        service={
            **dataclasses.asdict(checks.find_workspace(config.workspace)),
            "checkpoints": prefix or f"{CHECKPOINTS}/{run_id}",
            SUBMITTER: this_process(),
            **({FORCE: "true"} if force else {}),
        },
    )
    run_folder.write_receipt(folder, receipt)
    return run_id


def _new_id(config: AzureConfig) -> str:
    return f"{config.experiment}_{int(time.time())}_{secrets.token_hex(4)}"


def _clear_submitter(folder: Path, run_id: str) -> None:
    """Remove the submitter from the receipt, because no process submits the run any longer."""

    def without_submitter(receipt: run_folder.Receipt) -> run_folder.Receipt:
        service = {name: value for name, value in receipt.service.items() if name != SUBMITTER}
        return dataclasses.replace(receipt, service=service)

    with suppress(BackendError):  # a full disk; others will see that this process has ended
        run_folder.update_receipt(folder, run_id, without_submitter)


def _record_interrupt(folder: Path, run_id: str) -> Interrupted:
    """Record a Ctrl-C during the submission; return the error to raise."""
    if run_folder.read_receipt(folder).url is not None:
        return Interrupted(f"interrupted; {folder} has started and is still running", follow_hint(folder))
    hint = f"start it: {command_on('resume', folder)}"
    error = RunCancelled("interrupted before the run was submitted", hint)
    run_folder.record_end_of(folder, run_id, Status.cancelled, error)
    return Interrupted(f"interrupted before {folder} was submitted", error.hint)


def _send(job: Job, run: AzureRun, run_id: str) -> None:
    """Send everything that the run needs, and start it."""
    config, folder = run.config, run.folder
    receipt = run_folder.read_receipt(folder)
    request = plan.request(job, config, force=FORCE in receipt.service)
    workspace = run.workspace()
    report(f"workspace {workspace.name}: {workspace.location}, resource group {workspace.resource_group}")
    start_thread(partial(import_module, "azureml.train.estimator"))  # early, because it takes seconds
    mounts = {
        plan.DATA_MOUNT: request.data_folder,
        plan.CHECKPOINT_MOUNT: receipt.service["checkpoints"],
    }
    # A thread may still write into the folder when Ctrl-C ends its use.
    code_folder = tempfile.TemporaryDirectory(prefix="mnist-cnn-", ignore_cleanup_errors=True)
    with _costs_reported(run), code_folder as code:
        experiment, store = _prepare(run, request, mounts[plan.CHECKPOINT_MOUNT], Path(code))
        configuration = _configuration(request, config, store, mounts, Path(code))
        _check_not_superseded(folder, run_id)
        with signals.defer_signals(INTERRUPTED):  # a run that was started must be recorded
            started = start(experiment, configuration, run_id)
            record_start(run, started)
            report(f"run {started.id}: {started.get_portal_url()}")
    run.adopt(started)
    try:
        call("tag the run", lambda: started.set_tags(request.tags))
    except ServiceError as error:
        report(f"{error.message}; the run continues without its tags")


def _prepare(run: AzureRun, request: plan.Request, prefix: str, code: Path) -> tuple[Any, Any]:
    """Send data and checkpoint, write the code, prepare the cluster; return experiment and datastore."""
    config, workspace = run.config, run.workspace()
    cluster_key = (run.workspace_name(), config)
    is_ready = _is_recent(cluster_key)
    # Read-only requests first: if one is refused, nothing was sent and no cluster was created.
    experiment, (store, missing), target, _ = run_parallel(
        partial(_open_experiment, workspace, request.experiment),
        partial(_find_missing_data, workspace, request, config),
        (lambda: None) if is_ready else partial(cluster.find, workspace, config.cluster),
        partial(snapshot.write, code),
    )
    report(f"experiment {experiment.name}: {experiment.get_portal_url()}")
    address = f"account {store.account_name}, container {store.container_name}"
    report(f"datastore {store.name}: {store.datastore_type}, {address}")
    known = len(request.data_files) - len(missing)
    if known:
        where = f"{request.data_folder}/, with the same size and MD5"
        report(f"data: {known} of {len(request.data_files)} files are already in {where}")
    job = run_folder.read_job(run.folder).to_json().encode()
    _, _, _, target = run_parallel(
        partial(upload.send, store, request.data_folder, missing),
        # A folder must exist to be mounted.
        partial(upload.send_content, store, f"{prefix}/job.json", job),
        partial(checkpoints.send, store, prefix, run.folder),
        (lambda: None) if is_ready else partial(cluster.ensure, workspace, target, config),
    )
    _done_at.setdefault(_data_key(store, request, config), time.monotonic())
    if not is_ready:
        cluster.wait_until_ready(target, config)
        _done_at[cluster_key] = time.monotonic()
    return experiment, store


def _check_not_superseded(folder: Path, run_id: str) -> None:
    """Check that this process must still start the run, because a cluster takes minutes.

    Raises RunCancelled, or Superseded if another process believed this one to be dead.
    """
    now = run_folder.read_receipt(folder)
    if now.id != run_id:
        raise _superseded(folder)
    if CANCELLED in now.service:
        hint = f"start it: {command_on('resume', folder)}"
        raise RunCancelled("the run was cancelled before it started", hint)


def _superseded(folder: Path) -> Superseded:
    message = f"another process has submitted {folder} in the meantime"
    return Superseded(message, f"watch it: {command_on('follow', folder)}")


def record_start(run: AzureRun, started: Any) -> None:
    """Record that the SDK's run has started, or cancel it and raise Superseded if the receipt names another.

    Raises StartedButUnrecorded if the local disk refuses the receipt.
    """
    folder, url = run.folder, started.get_portal_url()

    def queued(receipt: run_folder.Receipt) -> run_folder.Receipt:
        status = receipt.status if receipt.status.is_final else Status.queued
        return dataclasses.replace(receipt, status=status, url=url)

    try:
        if run_folder.update_receipt(folder, started.id, queued):
            return
    except BackendError as error:
        message = f"{error.message}; {folder} has started and is still running"
        raise StartedButUnrecorded(message, f"{error.hint}; then {follow_hint(folder)}") from error
    superseded = _superseded(folder)
    try:
        # The SDK's run that a submission returns doesn't know how to cancel itself.
        call_with_retries("cancel the run", lambda: find_run(run.workspace(), started.id).cancel())
    except ServiceError as error:
        hint = f"cancel {started.id} in the studio: {url}"
        raise Superseded(f"{superseded.message}, and {error.message}", hint) from error
    raise superseded


def _open_experiment(workspace: Any, name: str) -> Any:
    from azureml.core import Experiment

    return call_with_retries(f"open the experiment {name}", partial(Experiment, workspace, name))


def _find_missing_data(
    workspace: Any, request: plan.Request, config: AzureConfig
) -> tuple[Any, tuple[snapshot.SentFile, ...]]:
    """Return the datastore, and the data files that must be sent there."""
    store = upload.default_datastore(workspace)
    key = _data_key(store, request, config)
    if _is_recent(key):
        return store, ()
    _done_at.pop(key, None)
    if config.data.overwrite:
        return store, request.data_files
    return store, upload.missing(store, request.data_folder, request.data_files)


def _data_key(store: Any, request: plan.Request, config: AzureConfig) -> tuple[Any, ...]:
    place = (store.account_name, store.container_name, request.data_folder)
    return (*place, request.data_files, config.data.overwrite)


@contextmanager
def _costs_reported(run: AzureRun) -> Iterator[None]:
    """Report what the cluster costs if its run does not start."""
    try:
        yield
    except (MnistCnnError, OSError, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            if run_folder.read_receipt(run.folder).url is not None:  # it has started
                raise
            report("interrupted; checking what the cluster costs (Ctrl-C skips this)")
        for line in run.cost_report():
            report(line)
        raise


def start(experiment: Any, configuration: Any, run_id: str) -> Any:
    """Start the run and return it, even if the service started it but reported a failure."""
    try:
        return call("submit the run", lambda: experiment.submit(configuration, run_id=run_id), SUBMIT_SECONDS)
    except ServiceError as error:
        run = _search_for_run(experiment.workspace, run_id, error)
        if run is None:
            raise
        report("the run has started")
        return run


def _search_for_run(workspace: Any, run_id: str, error: ServiceError) -> Any | None:
    """Return the run whose submission failed, or None if it has not started. Raises SubmissionUnknown.

    After a transient failure the service may start the run late, so the search takes a while.
    """
    deadline = time.monotonic() + (LATE_START_SECONDS if error.is_transient else 0.0)
    report(f"{error.message}; checking whether the run has started anyway")
    while True:
        try:
            return call_with_retries("find the run", lambda: find_run(workspace, run_id))
        except ServiceError as absent:
            if not absent.is_not_found:
                raise SubmissionUnknown(error.message, is_abandoned=error.is_abandoned) from error
        if time.monotonic() > deadline:
            if error.is_abandoned:
                raise SubmissionUnknown(error.message, is_abandoned=True) from error
            return None
        time.sleep(LATE_START_SECONDS / 6)


def _configuration(
    request: plan.Request, config: AzureConfig, store: Any, mounts: dict[str, str], code: Path
) -> Any:
    """Return the configuration that the SDK submits. Only this function knows its deprecated `Estimator`.

    An estimator can't be submitted with a run id, but the run configuration that it makes can.
    """
    from azureml.core import Environment, ScriptRunConfig
    from azureml.core.conda_dependencies import CondaDependencies
    from azureml.train.estimator import Estimator

    environment = Environment(request.environment.name)
    environment.docker.base_image = request.environment.image
    environment.python.conda_dependencies = CondaDependencies.create(
        python_version=request.environment.python,
        pip_packages=list(request.environment.packages),
        pin_sdk_version=False,
    )
    paths = {token: store.path(folder).as_mount() for token, folder in mounts.items()}
    tokens = [paths.get(token, token) for token in request.arguments]
    estimator = Estimator(
        source_directory=str(code),
        entry_script=snapshot.ENTRY,
        script_params=dict(zip(tokens[::2], tokens[1::2], strict=True)),
        compute_target=config.cluster,
        environment_definition=environment,
        max_run_duration_seconds=request.max_seconds,
    )
    return ScriptRunConfig(source_directory=str(code), run_config=estimator.run_config)


def _settings(config: AzureConfig) -> dict[str, Any]:
    """Return the values of `backend.*` that a later `resume`, from any folder, needs."""
    values = dataclasses.asdict(config)
    del values["name"], values["data"]  # how data files were sent does not concern the run
    return values | {"workspace": str(checks.workspace_file(config.workspace))}


def _is_recent(key: tuple[Any, ...]) -> bool:
    return time.monotonic() - _done_at.get(key, -REUSE_SECONDS) < REUSE_SECONDS
