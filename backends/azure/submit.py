"""From a job to a run on the cluster: data, cluster, code and environment, then one request to start it.

The receipt names the run before the service knows of it, so that nothing that happens here can lose it.
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
from mnist_cnn.backends.azure.failures import StartedButUnrecorded, SubmissionUnknown, Superseded, is_passing
from mnist_cnn.backends.azure.parallel import in_this_context, run_parallel
from mnist_cnn.backends.azure.run import (
    AWAY_SECONDS,
    CANCELLED,
    RETRIES,
    SLOW_POLL_SECONDS,
    AzureRun,
    find_run,
    retries,
)
from mnist_cnn.backends.azure.service import ServiceError, call, call_again, open_workspace, say
from mnist_cnn.backends.azure.submitter import SUBMITTER, this_process
from mnist_cnn.errors import (
    BackendError,
    Interrupted,
    MnistCnnError,
    RunCancelled,
    storage_error,
)
from mnist_cnn.terminal import signals
from mnist_cnn.training.runtime import changed_versions, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.job import Job

CHECKPOINTS = "mnist-cnn-checkpoints"
"""Folder of the datastore: a run that is started again, by the service or by `resume`, goes on from there."""
SHARED_SECONDS = 60.0
"""How long an upload and a look at the cluster hold for the next run that the same process submits."""
SUBMIT_SECONDS = 600.0
LATE_SECONDS = 30.0
"""How long a run is looked for whose submission was not answered."""
FORCE = "force"
"""The receipt's entry, under `service`, of a run that goes on also where job or machine have changed."""

_done: dict[tuple[Any, ...], float] = {}


def submit(job: Job, config: AzureConfig, folder: Path, *, force: bool = False) -> AzureRun:
    """Send a run folder's job; a folder that holds an ended run is gone on with.

    With `force` it goes on also where job or machine have changed.

    Raises:
        ConfigurationError: the folder holds a run that is under way or completed.
        BackendError: the service does not take it.
        StartedButUnrecorded, SubmissionUnknown: the run has or may have started; the receipt finds it.
        Superseded: another process has submitted it instead.
    """
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    if before is not None:
        is_ours = before.backend == config.name
        status = AzureRun(folder, config, resubmit).status() if is_ours else before.status
        run_folder.check_can_go_on(folder, status)
    with run_folder.held(folder):  # of two that resume, one is the first
        if before is not None:
            now = run_folder.read_receipt(folder)
            is_same = (now.id, now.backend) == (before.id, config.name)
            run_folder.check_can_go_on(folder, status if is_same else now.status)
        run_id = _write_receipt(job, config, folder, force=force)
    run = AzureRun(folder, config, resubmit, is_known=True)
    try:
        _submit_entered(job, run, run_id)
    finally:
        _clear_submitter(folder, run_id)
    return run


def resubmit(run: AzureRun, taken_id: str, why: str) -> None:
    """Submit a run whose node was taken away once more, unless somebody else has, or has cancelled it.

    `taken_id` is what it was in the service. Where that is busy or away, the receipt is as it was.

    Raises:
        BackendError: as `submit`, or this machine is not as that which began the run.
    """
    job = run_folder.read_job(run.folder)
    before = run_folder.read_receipt(run.folder)
    _check_machine(run, job, before)
    with run_folder.held(run.folder):  # of two that follow, one is the first
        before = run_folder.read_receipt(run.folder)
        if before.id != taken_id or CANCELLED in before.service:
            return
        number = retries(before) + 1
        service = before.service | {RETRIES: str(number), SUBMITTER: this_process()}
        again = dataclasses.replace(
            before, id=_new_id(run.config), status=Status.preparing, url=None, service=service
        )
        run_folder.write_receipt(run.folder, again)
    why = f"{why}; the run is started again, {number} of {run.config.preemption_retries}"
    say(why)
    try:
        _submit_entered(job, run, again.id, why)
    except BackendError as error:
        if isinstance(error, SubmissionUnknown) and (started := _started(run, again.id)) is not None:
            enter_start(run, started)
            return
        if is_passing(error):  # for it never started
            run_folder.amend(run.folder, again.id, lambda now: _as_before(before, now))
        raise
    finally:
        _clear_submitter(run.folder, again.id)


def _as_before(before: run_folder.Receipt, now: run_folder.Receipt) -> run_folder.Receipt:
    """Return the receipt from before a second start, with the mark of a cancellation that came meanwhile."""
    mark = {name: value for name, value in now.service.items() if name == CANCELLED}
    return dataclasses.replace(before, service=before.service | mark)


def _started(run: AzureRun, run_id: str) -> Any | None:
    """Return the SDK's run where it has started, else None; the service may be away for a while.

    Raises:
        SubmissionUnknown: it is away for longer, or does not tell.
    """
    workspace, asked_since = run.workspace(), time.monotonic()
    while True:
        try:
            return call("look for the run", lambda: find_run(workspace, run_id))
        except ServiceError as error:
            if error.status == 404:  # noqa: PLR2004
                return None
            if not is_passing(error) or time.monotonic() - asked_since > AWAY_SECONDS:
                hint = f"see later: status {run.folder}; end it: cancel {run.folder}"
                message = f"{error.message}; whether {run.folder} started is not known"
                raise SubmissionUnknown(message, hint, is_given_up=True) from error
            say(f"{error.message}; trying on for {AWAY_SECONDS:.0f} seconds at most")
            time.sleep(SLOW_POLL_SECONDS)


def _check_machine(run: AzureRun, job: Job, receipt: run_folder.Receipt) -> None:
    """Check that a run could go on from this machine, before anything of it is changed.

    Raises:
        BackendError: it has other packages, or not what a submission needs.
    """
    go_on = f"cancel {run.folder}, then resume {run.folder} force=true"
    hint = f"follow it where it was started; or from here: {go_on}"
    changed = changed_versions(receipt.versions, versions()) if receipt.versions else ()
    if changed:
        raise BackendError(f"its node was taken away, and this machine has {', '.join(changed)}", hint)
    try:
        plan.request(job, run.config)
        checks.all_of(run.config)
    except MnistCnnError as error:
        message = f"its node was taken away, and it cannot be started again from here: {error.message}"
        raise BackendError(message, error.hint or hint) from error


def _submit_entered(job: Job, run: AzureRun, run_id: str, why: str | None = None) -> None:
    """Send a job whose run is named in the receipt. Raises as `submit` does."""
    folder = run.folder
    try:
        log.separate(folder, why)
        _send(job, run, run_id)
    except (StartedButUnrecorded, Superseded):
        raise
    except SubmissionUnknown as error:
        hint = f"see later: status {folder}; end it: cancel {folder}"
        message = f"{error.message}; whether {folder} started is not known"
        raise SubmissionUnknown(message, hint, is_given_up=error.is_given_up) from error
    except RunCancelled as error:
        run_folder.enter_end(folder, run_id, Status.cancelled, error)
        raise
    except MnistCnnError as error:
        if why is not None and is_passing(error):  # it is as it was before, in a moment
            raise
        _end_unstarted(folder, run_id, error)
        raise
    except OSError as error:  # of the temporary folder, or a data file that is gone
        worded = storage_error(error, str(error.filename or tempfile.gettempdir()), "TMPDIR=FOLDER")
        _end_unstarted(folder, run_id, worded)
        raise worded from error
    except KeyboardInterrupt:
        raise _interrupted(folder, run_id) from None


def _end_unstarted(folder: Path, run_id: str, error: MnistCnnError) -> None:
    error.hint = "; ".join(filter(None, (error.hint, f"then start the run: resume {folder}")))
    run_folder.enter_end(folder, run_id, Status.failed, error)


def _write_receipt(job: Job, config: AzureConfig, folder: Path, *, force: bool) -> str:
    """Write the receipt, which names the run that is going to be; return its id."""
    before = run_folder.read_receipt(folder) if (folder / run_folder.RECEIPT).exists() else None
    run_id = _new_id(config)
    kept = before.service.get("checkpoints") if before is not None else None
    receipt = run_folder.Receipt(
        backend=config.name,
        id=run_id,
        job_digest=job.digest,
        status=Status.preparing,
        created=before.created if before is not None else run_folder.created_now(folder),
        backend_settings=_settings(config),
        versions=versions(),
        service={
            **dataclasses.asdict(checks.find_workspace(config.workspace)),
            "checkpoints": kept or f"{CHECKPOINTS}/{run_id}",
            SUBMITTER: this_process(),
            **({FORCE: "true"} if force else {}),
        },
    )
    run_folder.write_receipt(folder, receipt)
    return run_id


def _new_id(config: AzureConfig) -> str:
    return f"{config.experiment}_{int(time.time())}_{secrets.token_hex(4)}"


def _clear_submitter(folder: Path, run_id: str) -> None:
    """Take the submitter from the receipt: nobody is submitting the run any more."""

    def without_submitter(receipt: run_folder.Receipt) -> run_folder.Receipt:
        service = {name: value for name, value in receipt.service.items() if name != SUBMITTER}
        return dataclasses.replace(receipt, service=service)

    with suppress(BackendError):  # on a full disk; this process is known to have ended then
        run_folder.amend(folder, run_id, without_submitter)


def _interrupted(folder: Path, run_id: str) -> Interrupted:
    """Enter Ctrl-C during a submission; return what to say of it."""
    if run_folder.read_receipt(folder).url is not None:
        hint = f"watch it: follow {folder}; end it: cancel {folder}"
        return Interrupted(f"interrupted; {folder} has started and goes on", hint)
    error = RunCancelled("interrupted before the run was submitted", f"start it: resume {folder}")
    run_folder.enter_end(folder, run_id, Status.cancelled, error)
    return Interrupted(f"interrupted before {folder} was submitted", error.hint)


def _send(job: Job, run: AzureRun, run_id: str) -> None:
    config, folder = run.config, run.folder
    receipt = run_folder.read_receipt(folder)
    request = plan.request(job, config, force=FORCE in receipt.service)
    place = checks.WorkspaceName(**_part(receipt.service, checks.WorkspaceName))
    workspace = open_workspace(place)
    say(f"workspace {workspace.name}: {workspace.location}, resource group {workspace.resource_group}")
    in_this_context(_import_the_estimator)
    nodes = (place, config)
    is_ready = _is_recent(nodes)
    # A thread may still write into the folder when Ctrl-C ends its use.
    code_folder = tempfile.TemporaryDirectory(prefix="mnist-cnn-", ignore_cleanup_errors=True)
    with _costs_are_told(run), code_folder as code:
        # First all that only looks: where any of it is refused, nothing was sent and no cluster made.
        experiment, (store, unsent), target, _ = run_parallel(
            partial(_open_experiment, workspace, request.experiment),
            partial(_find_missing_data, workspace, place, request, config),
            _nothing if is_ready else partial(cluster.find, workspace, config.cluster),
            partial(snapshot.write, Path(code)),
        )
        say(f"experiment {experiment.name}: {experiment.get_portal_url()}")
        say(upload.describe(store))
        known = len(request.data_files) - len(unsent)
        if known:
            where = f"{request.data_folder}/, with the same size and MD5"
            say(f"data: {known} of {len(request.data_files)} files are already in {where}")
        kept = receipt.service["checkpoints"]
        mounts = {plan.DATA_MOUNT: request.data_folder, plan.CHECKPOINT_MOUNT: kept}
        _, _, _, target = run_parallel(
            partial(upload.send, store, request.data_folder, unsent),
            # What is mounted has to be there.
            partial(upload.send_content, store, f"{kept}/job.json", job.to_json().encode()),
            partial(checkpoints.send, store, kept, folder),
            _nothing if is_ready else partial(cluster.ensure, workspace, target, config),
        )
        _done.setdefault(_data_key(place, store, request, config), time.monotonic())
        if not is_ready:
            cluster.await_ready(target, config)
            _done[nodes] = time.monotonic()
        configuration = _configuration(request, config, store, mounts, Path(code))
        _check_is_still_wanted(folder, run_id)
        with signals.defer_signals():  # once it is on its way the run has to be known
            started = start(experiment, configuration, run_id)
            enter_start(run, started)
            say(f"run {started.id}: {started.get_portal_url()}")
    run.adopt(started)
    try:
        call("tag the run", lambda: started.set_tags(request.tags))
    except ServiceError as error:
        say(f"{error.message}; the run goes on without its tags")


def _check_is_still_wanted(folder: Path, run_id: str) -> None:
    """Check, after the minutes that a cluster takes, that the run is to be started by this process.

    Raises:
        RunCancelled: somebody has cancelled it.
        Superseded: somebody took this process for dead, and submits the run.
    """
    now = run_folder.read_receipt(folder)
    if now.id != run_id:
        message = f"{folder} was started again by another process meanwhile"
        raise Superseded(message, f"watch it: follow {folder}")
    if CANCELLED in now.service:
        raise RunCancelled("the run was cancelled before it started", f"start it: resume {folder}")


def enter_start(run: AzureRun, started: Any) -> None:
    """Enter that the SDK's run has started; end it where the receipt names another by now.

    Raises:
        StartedButUnrecorded: the disk here does not take it.
        Superseded: it was ended, or is to be ended as the error says.
    """
    folder, url = run.folder, started.get_portal_url()
    try:
        if run_folder.amend(folder, started.id, lambda now: _queued(now, url)):
            return
    except BackendError as error:
        go_on = f"{error.hint}; then watch it: follow {folder}; end it: cancel {folder}"
        raise StartedButUnrecorded(f"{error.message}; {folder} has started and goes on", go_on) from error
    message = f"{folder} was started again by another process meanwhile"
    try:
        # As it comes from its submission, the SDK's run does not know how it is cancelled.
        call_again("cancel the run", lambda: find_run(run.workspace(), started.id).cancel())
    except ServiceError as error:
        hint = f"cancel {started.id} in the studio: {url}"
        raise Superseded(f"{message}, and {error.message}", hint) from error
    raise Superseded(message, f"watch it: follow {folder}")


def _queued(receipt: run_folder.Receipt, url: str) -> run_folder.Receipt:
    """Return the receipt of a run that has started; of one that has ended already, its page is news alone."""
    status = receipt.status if receipt.status.is_final else Status.queued
    return dataclasses.replace(receipt, status=status, url=url)


def _import_the_estimator() -> None:
    """Begin what takes seconds, while the service is waited for."""
    with suppress(ImportError):  # which is raised where it is needed
        import_module("azureml.train.estimator")


def _open_experiment(workspace: Any, name: str) -> Any:
    def open_it() -> Any:
        from azureml.core import Experiment

        return Experiment(workspace, name)

    return call_again(f"open the experiment {name}", open_it)


def _find_missing_data(
    workspace: Any, place: checks.WorkspaceName, request: plan.Request, config: AzureConfig
) -> tuple[Any, tuple[plan.DataFile, ...]]:
    """Return the datastore, and the data files that are to be sent there."""
    store = upload.default_datastore(workspace)
    key = _data_key(place, store, request, config)
    if _is_recent(key):
        return store, ()
    _done.pop(key, None)
    if config.data.overwrite:
        return store, request.data_files
    return store, upload.missing(store, request.data_folder, request.data_files)


def _data_key(
    place: checks.WorkspaceName, store: Any, request: plan.Request, config: AzureConfig
) -> tuple[Any, ...]:
    return (place, store.name, request.data_folder, request.data_files, config.data.overwrite)


def _nothing() -> None:
    """Stand among other steps for one that is left out."""


@contextmanager
def _costs_are_told(run: AzureRun) -> Iterator[None]:
    """Say what the cluster costs, where its run does not start."""
    try:
        yield
    except (MnistCnnError, OSError, KeyboardInterrupt):
        for line in run.cost_report():
            say(line)
        raise


def start(experiment: Any, configuration: Any, run_id: str) -> Any:
    """Start the run; where that fails, see whether it has started all the same."""
    try:
        return call("submit the run", lambda: experiment.submit(configuration, run_id=run_id), SUBMIT_SECONDS)
    except ServiceError as error:
        run = _search_for_run(experiment.workspace, run_id, error)
        if run is None:
            raise error from error.__cause__
        say("the run has started")
        return run


def _search_for_run(workspace: Any, run_id: str, error: ServiceError) -> Any | None:
    """Return a run whose submission failed; None where it has not started.

    Where the service was busy or away, it may still be carrying out what it did not answer.

    Raises:
        SubmissionUnknown: that could not be found out.
    """
    until = time.monotonic() + (LATE_SECONDS if is_passing(error) else 0.0)
    say(f"{error.message}; looking whether the run has started all the same")
    while True:
        try:
            return call_again("look for the run", lambda: find_run(workspace, run_id))
        except ServiceError as absent:
            if absent.status != 404:  # noqa: PLR2004
                raise SubmissionUnknown(error.message, is_given_up=error.is_given_up) from error
        if time.monotonic() > until and error.is_given_up:
            raise SubmissionUnknown(error.message, is_given_up=True) from error
        if time.monotonic() > until:
            return None
        time.sleep(LATE_SECONDS / 6)


def _configuration(
    request: plan.Request, config: AzureConfig, store: Any, mounts: dict[str, str], code: Path
) -> Any:
    """Return what the SDK submits. The only function that knows its `Estimator`, which is deprecated.

    The estimator itself takes no run id, so that what it has made of the request is submitted as a script.
    """
    from azureml.core import Environment, ScriptRunConfig
    from azureml.core.conda_dependencies import CondaDependencies
    from azureml.train.estimator import Estimator

    asked = request.environment
    environment = Environment(asked.name)
    environment.docker.base_image = asked.image
    environment.python.conda_dependencies = CondaDependencies.create(
        python_version=asked.python, pip_packages=list(asked.packages), pin_sdk_version=False
    )
    tokens = [
        store.path(mounts[token]).as_mount() if token in mounts else token for token in request.arguments
    ]
    estimator = Estimator(
        source_directory=str(code),
        entry_script=snapshot.ENTRY,
        script_params=dict(zip(tokens[::2], tokens[1::2], strict=True)),
        compute_target=config.cluster,
        environment_definition=environment,
        max_run_duration_seconds=request.max_seconds,
    )
    made = estimator.run_config
    return ScriptRunConfig(source_directory=str(code), run_config=made)


def _settings(config: AzureConfig) -> dict[str, Any]:
    """Return the values of `backend.*` for whoever goes on with the run, from whatever folder."""
    values = dataclasses.asdict(config)
    del values["name"], values["data"]  # how the files were sent this time is no setting of the run
    return values | {"workspace": str(checks.workspace_file(config.workspace))}


def _is_recent(what: tuple[Any, ...]) -> bool:
    return time.monotonic() - _done.get(what, -SHARED_SECONDS) < SHARED_SECONDS


def _part(values: dict[str, str], of: type[checks.WorkspaceName]) -> dict[str, str]:
    return {field.name: values[field.name] for field in dataclasses.fields(of)}
