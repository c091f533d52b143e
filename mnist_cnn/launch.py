"""The functions behind the command line and Python API.

They lead from overrides to a run. Everything that can be checked without starting a run is checked before its
folder is made.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import compose, job_maker, plan_text, registered, run_creation, run_folder
from mnist_cnn.backend import Plan, Status
from mnist_cnn.backends import backend_class
from mnist_cnn.config import Registry
from mnist_cnn.errors import BackendError, ConfigurationError, DataError, MnistCnnError, NeedsForceError
from mnist_cnn.hints import command_line
from mnist_cnn.job import Job
from mnist_cnn.result import describe_epochs
from mnist_cnn.tracking import state as tracking_state
from mnist_cnn.training import extension, initial_weights, stopping
from mnist_cnn.training.checkpoint import Checkpoints, changed_hint
from mnist_cnn.training.runtime import changed_versions, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mnist_cnn.backend import Backend, Run
    from mnist_cnn.config import Config
    from mnist_cnn.prediction.predictor import Picture, Prediction
    from mnist_cnn.receipt import Receipt

JOB_KEYS = ("data", "model", "train", "seed", "save_h5")
"""Groups and keys that are part of a job."""


# The Python API


def make_job(*overrides: str) -> Job:
    """Return the job that overrides describe.

    A missing data set is downloaded. Raises ConfigurationError or DataError if the configuration or the data
    are not valid.
    """
    return job_maker.job_of(compose.load(overrides))


def plan(*overrides: str) -> Plan:
    """Return what `submit` would do with overrides.

    Sends and downloads nothing, and writes nothing but converted data, into the cache. Raises
    ConfigurationError or DataError if `submit` would refuse them.
    """
    return plan_of(compose.load(overrides))


def submit(*job_or_overrides: Job | str) -> Run:
    """Start a run and return it.

    Its `wait()` returns the result. Takes overrides, or a job and overrides that only choose its backend and
    folder: `submit("train.epochs=2")`, `submit(job, "run_dir=first")`.

    Raises:
        ConfigurationError: an override is not valid, or would change the given job.
        DataError, BackendError: the run cannot be started.
    """
    jobs = [given for given in job_or_overrides if isinstance(given, Job)]
    overrides = [given for given in job_or_overrides if not isinstance(given, Job)]
    if len(jobs) > 1:
        raise ConfigurationError(f"submit takes one job, not {len(jobs)}", "submit them one by one")
    compose.check_are_texts(overrides)
    for override in overrides if jobs else ():
        key = re.match(r"\w*", override.lstrip("+~"))
        if key is not None and key.group() in JOB_KEYS:
            hint = f"leave it out, or make the job with it: make_job({override!r})"
            raise ConfigurationError(f"{override} would change the submitted job", hint)
    config = compose.load(overrides)
    return start(config, jobs[0] if jobs else job_maker.job_of(config))


def attach(run: str = run_folder.LATEST, *overrides: str) -> Run:
    """Return an existing run.

    `run` is its folder, its name under `runs_dir`, its name's beginning or end, or `latest`. Raises
    ConfigurationError if the run does not exist, BackendError if its receipt is damaged.
    """
    return attach_to(find(run, overrides), overrides)


def resume(run: str = run_folder.LATEST, *overrides: str) -> Run:
    """Resume an interrupted run from its newest checkpoint.

    It continues on its backend, or on the one in the overrides. `resume(run, "train.epochs=20")` continues a
    completed run: it starts a new run from the last checkpoint. Raises as `prepare_resume` does, and
    BackendError if the backend refuses the job.
    """
    return prepare_resume(run, overrides)()


def predict_file(run: str | Path | Run, picture: Picture, *overrides: str) -> Prediction:
    """Return a model's prediction for a picture.

    `run` is a run, its folder, its name, `latest`, or the folder of a registered model. Raises
    ConfigurationError if the run does not exist, DataError if model or picture are missing or damaged.
    """
    from mnist_cnn.prediction.predictor import load_predictor

    name = str(run if isinstance(run, str | Path) else run.folder)
    predictions = load_predictor(find_model(name, overrides)).predict(picture)
    if len(predictions) != 1:
        hint = "for several, call load_predictor(FOLDER).predict(PICTURES)"
        raise DataError(f"predict_file takes one picture, not {len(predictions)}", hint)
    return predictions[0]


# What the command line calls


def backend_of(config: Config) -> Backend:
    """Return a configuration's backend.

    Raises ConfigurationError if it cannot be imported.
    """
    return backend_class(config.backend.name)(config)


def start(config: Config, job: Job) -> Run:
    """Make the run folder and submit the job.

    Removes the folder if the backend refuses the job. Raises ConfigurationError, DataError or BackendError if
    the folder cannot be made, or the job is refused.
    """
    _refuse_force(config)
    _check_pause(config.run.pause_after, job.train.epochs)
    backend = backend_of(config)
    backend.check(job)
    with run_creation.create(config.run.run_dir, config.run.runs_dir, job) as folder:
        if job.train.init_sha256 is not None:
            initial_weights.write(folder / run_folder.CHECKPOINTS, job_maker.initial_weights_of(job))
        tracking_state.choose(folder, config.track)
        return backend.submit(job, folder)


def prepare_resume(run: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Callable[[], Run]:
    """Check a run and return a function resuming it.

    Downloads the run's checkpoints.

    Raises:
        ConfigurationError: the run does not exist, is still running or completed, or its job or packages have
            changed and the overrides do not include `force=true`; or the overrides change the job by more
            than its epochs.
        DataError: the data set is missing.
        BackendError: the checkpoints cannot be downloaded.
    """
    is_longer = is_extension(overrides)
    folder = find(run, overrides, config_dirs)
    config = config_to_resume(folder, overrides, config_dirs)
    backend = backend_of(config)
    receipt = run_folder.read_receipt(folder)
    moves = config.backend.name != receipt.backend
    force = ("force=true",) if config.run.force else ()
    before = attach_to(folder, force) if moves else backend.attach(folder)
    status = before.status()
    if not status.is_final:
        host = run_folder.other_host(receipt)
        where = f" on {host}" if host else ""
        gone = f"; if that machine is gone: {command_line('resume', folder, 'force=true')}" if host else ""
        hint = f"watch it: {command_line('follow', folder)}{gone}"
        raise ConfigurationError(f"{folder} is {status.value}{where}", hint)
    if is_longer:
        return _prepare_extension(before, status, config)
    run_folder.check_resumable(folder, status)
    job = _job_to_resume(before, status)
    if config.run.pause_after is not None:
        _check_pause(config.run.pause_after, job.train.epochs, _epochs_kept(before, config.run.pause_after))
    backend.check(job)
    if moves:
        before.download_checkpoints()
        with run_folder.lock(folder):
            now = run_folder.read_receipt(folder)
            if now == receipt and not now.status.is_final:  # the new backend cannot ask the old one
                run_folder.record_end(folder, status)
    _check_unchanged(folder, job, receipt, force=config.run.force)
    if status is Status.completed and run_folder.damage(folder, status) is None:
        return lambda: before  # only job.json was damaged
    tracking_state.choose(folder, config.track)
    return partial(backend.submit, job, folder)


def is_extension(overrides: Sequence[str]) -> bool:
    """Return whether overrides set a resumed run's epochs.

    Raises ConfigurationError if they change anything else of its job.
    """
    keys = [override.lstrip("+~").partition("=")[0].strip() for override in overrides]
    for key, override in zip(keys, overrides, strict=True):
        if key != extension.EPOCHS and re.split(r"\W", key)[0] in JOB_KEYS:
            hint = f"start a new run; resume can only raise {extension.EPOCHS}"
            raise ConfigurationError(f"resume does not take {override}", hint)
    return extension.EPOCHS in keys


def _prepare_extension(run: Run, status: Status, config: Config) -> Callable[[], Run]:
    """Return a function that continues a completed run.

    It starts a new run with more epochs. Raises ConfigurationError if that is not possible.
    """
    folder, epochs = run.folder, f"{extension.EPOCHS}={config.train.epochs}"
    if status is not Status.completed or run_folder.damage(folder, status) is not None:
        state = "damaged" if status is Status.completed else status.value
        hint = f"first complete it: {command_line('resume', folder)}"
        raise ConfigurationError(f"{epochs} continues a completed run; {folder} is {state}", hint)
    job = run_folder.read_job(folder)
    run.download_checkpoints()
    last = Checkpoints(folder / run_folder.CHECKPOINTS).newest()
    if last is None or not stopping.is_done(last.history, job.train):
        message = f"{folder} has no intact checkpoint of its last epoch"
        raise ConfigurationError(message, f"start a new run with {epochs}")
    # A checkpoint of a node names the node's folder of data.
    longer = extension.extended(dataclasses.replace(last, job=job), config.train.epochs)
    _check_pause(config.run.pause_after, longer.job.train.epochs, len(last.history))
    before = run_folder.read_receipt(folder).versions
    changes = changed_versions(before, versions()) if before else ()
    if changes and not config.run.force:
        message = f"{folder} cannot be continued, because this has changed: {', '.join(changes)}"
        anyway = command_line("resume", folder, epochs, "force=true")
        raise ConfigurationError(
            message, f"undo that, or resume anyway (result.json records the change): {anyway}"
        )
    backend = backend_of(config)
    backend.check(longer.job)

    def start_longer() -> Run:
        with run_creation.create(config.run.run_dir, config.run.runs_dir, longer.job) as new:
            Checkpoints(new / run_folder.CHECKPOINTS).save(longer)
            initial_weights.copy(folder / run_folder.CHECKPOINTS, new / run_folder.CHECKPOINTS)
            tracking_state.choose(new, config.track)
            return backend.submit(longer.job, new)

    return start_longer


def _job_to_resume(run: Run, status: Status) -> Job:
    """Return the job to resume.

    Reads it from the newest checkpoint if job.json is missing or damaged. Only the job of a run that isn't
    completed may be changed by hand.
    """
    try:
        return run_folder.read_job(run.folder, may_be_changed=status is not Status.completed)
    except MnistCnnError as error:
        run.download_checkpoints()
        checkpoint = Checkpoints(run.folder / run_folder.CHECKPOINTS).newest()
        if checkpoint is None:
            hint = "no checkpoint holds the job either; start a new run"
            raise type(error)(error.message, hint) from error
        return checkpoint.job


def _epochs_kept(run: Run, pause_after: int) -> int:
    """Return after which epoch a resumed run begins.

    Reads the newest checkpoint only if the run has trained as far as the pause; otherwise returns the epochs
    that it has trained.
    """
    trained = len(run_folder.read_history(run.folder))
    if trained < pause_after:
        return trained
    run.download_checkpoints()
    checkpoint = Checkpoints(run.folder / run_folder.CHECKPOINTS).newest()
    return len(checkpoint.history) if checkpoint is not None else 0


def config_to_resume(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the configuration for resuming a run.

    Its backend is that of the overrides, or else the run's own.
    """
    named = compose.named_backend(overrides)
    if named in (None, run_folder.read_receipt(folder).backend):
        return config_of_run(folder, overrides, config_dirs)
    return compose.load([*tracking_state.implied(folder, overrides), *overrides], config_dirs)


def find(run: str, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Path:
    """Return a run's folder. Raises as `run_folder.find` does.

    Ignores `backend.*`, because only the found run's receipt says which backend these keys belong to.
    """
    others = [text for text in overrides if text.lstrip("+").partition("=")[0].partition(".")[0] != "backend"]
    return run_folder.find(run, compose.runs_dir(others, config_dirs))


def find_model(run: str, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Path:
    """Return the model's ONNX file, or its folder.

    The folder is of a registered model, of its newest version, or of a run. Raises as `find` does.
    """
    path = Path(run)
    if path.suffix == ".onnx" or (path / run_folder.ONNX).is_file():
        return path
    return registered.version_in(path) or find(run, overrides, config_dirs)


def attach_to(folder: Path, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Run:
    """Return the run in a folder.

    Its receipt names the backend.
    """
    return backend_of(config_of_run(folder, overrides, config_dirs)).attach(folder)


def config_of_run(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the configuration for an existing run.

    The run's receipt names the backend.
    """
    receipt = run_folder.read_receipt(folder)
    overrides = [*tracking_state.implied(folder, overrides), *overrides]
    return compose.load(overrides, config_dirs, backend=(receipt.backend, receipt.backend_settings))


def ends_with_its_command(config: Config) -> bool:
    """Return whether this backend's runs end with their command."""
    return backend_class(config.backend.name).ends_with_its_command


def statuses(receipts: Mapping[Path, Receipt]) -> dict[Path, Status]:
    """Return the runs' statuses, without those removed meanwhile.

    Only the backends of runs that have not ended are asked. If one does not answer, or is not installed, the
    receipt's status is used.
    """
    backends: dict[str, Backend | None] = {}
    found: dict[Path, Status] = {}
    for folder, receipt in receipts.items():
        if receipt.status.is_final and receipt.status is not Status.lost:
            found[folder] = receipt.status
            continue
        with suppress(BackendError):
            found[folder] = _status(folder, backends)
    return found


def _status(folder: Path, backends: dict[str, Backend | None]) -> Status:
    """Return a run's status.

    `backends` has one backend per name, or None for one that does not answer.
    """
    receipt = run_folder.read_receipt(folder)
    backend = None
    try:
        if receipt.backend not in backends:
            backends[receipt.backend] = None
            backends[receipt.backend] = backend_of(config_of_run(folder, (), ()))
        backend = backends[receipt.backend]
        return backend.attach(folder).status() if backend is not None else receipt.status
    except BackendError:
        if backend is not None and not backend.ends_with_its_command:
            backends[receipt.backend] = None  # ask a service that does not answer only once
        return receipt.status
    except MnistCnnError:
        return receipt.status


def _check_unchanged(folder: Path, job: Job, receipt: Receipt, *, force: bool) -> None:
    """Refuse a changed job or changed packages without `force`.

    Otherwise writes job.json again, with a digest that fits. Raises ConfigurationError.
    """
    checkpoint = Checkpoints(folder / run_folder.CHECKPOINTS).newest()
    if checkpoint is not None:
        changes = checkpoint.job.changes_to(job)
    else:
        changes = () if job.has_digest(receipt.job_digest) else ("the job",)
    if receipt.versions:
        changes += changed_versions(receipt.versions, versions())
    if changes and not force:
        message = f"{folder} cannot be resumed, because this has changed: {', '.join(changes)}"
        raise NeedsForceError(message, changed_hint(folder))
    with run_folder.lock(folder):  # a process that starts the run meanwhile removes half-written files
        run_folder.write_job(folder, job)  # with the digest that fits a job that was changed by hand


def _check_pause(pause_after: int | None, epochs: int, trained: int = 0) -> None:
    """Check that `pause_after` is a future epoch.

    `epochs` are those of the job. Raises ConfigurationError.
    """
    if pause_after is None or trained < pause_after <= epochs:
        return
    what = f"the job has {describe_epochs(epochs)}"
    if pause_after <= trained:
        what = f"the run has trained {describe_epochs(trained)} of {epochs}"
    raise ConfigurationError(
        f"pause_after={pause_after}: {what}", "name a later epoch of the job, or leave it out"
    )


def _refuse_force(config: Config) -> None:
    if config.run.force:
        raise ConfigurationError("only resume takes force=true", "leave it out")


def plan_of(config: Config) -> Plan:
    """Return what would be trained, and where.

    Raises as `plan` does.
    """
    from mnist_cnn.data import datasets
    from mnist_cnn.data.download import find_source

    _refuse_force(config)
    pause_after = config.run.pause_after
    _check_pause(pause_after, config.train.epochs)
    run_dir = Path(config.run.run_dir) if config.run.run_dir is not None else None
    if run_dir is not None:
        run_creation.check_free(run_dir)
    original, config = config, job_maker.with_own_data(config)
    info = datasets.inspect(config.data, download=False)
    backend_lines: tuple[tuple[str, str], ...] = ()
    if info is None:
        classes = config.data.num_classes or find_source(config.data.name).classes
        digest = "its digest is known once the data set is downloaded"
        data = f"{config.data.name}, not downloaded yet: downloaded when a run starts"
    else:
        job = job_maker.make(config, info)
        if run_dir is not None:
            run_creation.check_free(run_dir, job)
        classes, digest, data = job.data.classes, job.digest, plan_text.describe_data(original, info)
        backend_lines = backend_of(config).plan(job).lines
    registered = "no"
    if (name := config.register.name) is not None:
        where = " in MLflow's registry" if config.register.to is Registry.mlflow else ""
        registered = f"as {name}{where}, if its test accuracy is at least {config.register.min_accuracy:g}"
    return Plan(
        (
            ("job", digest),
            ("data", data),
            ("model", plan_text.describe_model(config.model, classes)),
            ("train", plan_text.describe_training(config.train)),
            ("seed", str(config.run.seed)),
            ("folder", config.run.run_dir or f"a new one under {config.run.runs_dir}"),
            ("backend", config.backend.name),
            *backend_lines,
            *tracking_state.describe(config.track),
            *(() if pause_after is None else (("pause", f"after epoch {pause_after}"),)),
            ("registered", registered),
        )
    )
