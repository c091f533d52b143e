"""From overrides to a run: what the command line and a notebook both call.

Everything that can be checked without starting anything is checked before a folder is made.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import compose, run_folder
from mnist_cnn.backend import Plan, Status
from mnist_cnn.backends import backend_class
from mnist_cnn.config import Schedule
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError
from mnist_cnn.files import safe_read
from mnist_cnn.job import Job
from mnist_cnn.training.checkpoint import Checkpoints, changed_hint
from mnist_cnn.training.model import check_network, convolutions, is_normalised
from mnist_cnn.training.runtime import changed_versions, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnist_cnn.backend import Backend, Run
    from mnist_cnn.config import Config, TrainConfig
    from mnist_cnn.data.datasets import DataSetInfo

SOURCE_BYTES = 512 * 1024
"""The most that a network file may have: job.json, which holds it, may have some more."""


def make_job(*overrides: str) -> Job:
    """Make the job that these overrides describe; data that are not here yet are downloaded.

    Raises:
        ConfigurationError, DataError: what is wrong with the configuration or the data.
    """
    return job_of(compose.load(overrides))


def plan(*overrides: str) -> Plan:
    """Say what `submit` would do with these overrides; nothing is written, sent or downloaded.

    Raises:
        ConfigurationError, DataError: why it would be refused.
    """
    return plan_of(compose.load(overrides))


def submit(*job_or_overrides: Job | str) -> Run:
    """Start a run and return it; `wait()` gives its result.

    What is trained is a job from `make_job` or what the overrides describe; where and into which folder is
    for the overrides to say: `submit(job, "run_dir=first")`, `submit("train.epochs=2")`.

    Raises:
        ConfigurationError, DataError, BackendError: it cannot be started.
    """
    overrides = [given for given in job_or_overrides if isinstance(given, str)]
    jobs = [given for given in job_or_overrides if isinstance(given, Job)]
    config = compose.load(overrides)
    return start(config, jobs[0] if jobs else job_of(config))


def attach(run: str = run_folder.LATEST, *overrides: str) -> Run:
    """Return a run by its folder, its name under `runs_dir`, the beginning of one or `latest`.

    Raises:
        ConfigurationError: there is no such run.
        BackendError: its receipt is damaged.
    """
    return attach_to(find(run, overrides), overrides)


def job_of(config: Config) -> Job:
    """Make a configuration's job. Raises as `make_job` does."""
    from mnist_cnn.data import datasets

    info = datasets.inspect(config.data)
    if info is None:
        message = f"the data set {config.data.name} is not here"
        raise ConfigurationError(message, "set data.dir=FOLDER to a folder that holds it")
    return _job(config, info)


def check(config: Config, job: Job) -> None:
    """Check all that can be known before a job is handed to its backend.

    Raises:
        ConfigurationError, DataError: what is wrong.
    """
    backend_class(config.backend.name)(config).check(job)


def start(config: Config, job: Job) -> Run:
    """Make the run folder and hand the job to its backend; where that never took it, nothing is left.

    Raises:
        ConfigurationError, DataError, BackendError: the folder cannot be made, or the job is not taken.
    """
    _refuse_force(config)
    backend = backend_class(config.backend.name)(config)
    backend.check(job)
    folder = run_folder.create(config.run.run_dir, config.run.runs_dir, job)
    try:
        return backend.submit(job, folder)
    except BaseException:
        run_folder.remove_unstarted(folder)
        raise


def resume(run: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Run:
    """Start an interrupted run again, in its folder, from its newest checkpoint; here or at another place.

    Raises:
        ConfigurationError, DataError, BackendError: as `prepare_resume`, or the place does not take it.
    """
    return prepare_resume(run, overrides, config_dirs)()


def prepare_resume(run: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Callable[[], Run]:
    """Check that an interrupted run can go on and bring its checkpoints; return what starts it.

    Raises:
        ConfigurationError: there is no such run, it is running or completed, or its job or the packages have
            changed since, and `force=true` is not among the overrides.
        DataError: the data are not here any more.
        BackendError: the place where it ran does not give its checkpoints.
    """
    folder = find(run, overrides, config_dirs)
    config = config_to_resume(folder, overrides, config_dirs)
    backend = backend_class(config.backend.name)(config)
    receipt = run_folder.read_receipt(folder)
    moves = config.backend.name != receipt.backend
    force = ("force=true",) if config.run.force else ()
    before = attach_to(folder, force) if moves else backend.attach(folder)
    status = before.status()
    if not status.is_final:
        host = run_folder.other_host(receipt)
        on, gone = (
            (f" on {host}", f"; if that machine is gone: resume {folder} force=true") if host else ("", "")
        )
        raise ConfigurationError(f"{folder} is {status.value}{on}", f"watch it: follow {folder}{gone}")
    run_folder.check_resumable(folder, status)
    job = run_folder.read_job(folder, may_be_changed=True)
    backend.check(job)
    if moves:
        before.download_checkpoints()
        with run_folder.lock(folder):
            now = run_folder.read_receipt(folder)
            if now == receipt and not now.status.is_final:  # what its own place tells, another does not know
                run_folder.record_end(folder, status)
    _check_unchanged(folder, job, receipt, force=config.run.force)
    return partial(backend.submit, job, folder)


def config_to_resume(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Compose the configuration to go on with a run: at the place that they name, else where it was."""
    named = compose.named_backend(overrides)
    if named in (None, run_folder.read_receipt(folder).backend):
        return config_of_run(folder, overrides, config_dirs)
    return compose.load(overrides, config_dirs)


def find(run: str, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Path:
    """Return a run's folder. Raises as `run_folder.find` does.

    What the overrides set of a backend is left aside: which one a run has is known when it is found.
    """
    others = [text for text in overrides if text.lstrip("+").partition("=")[0].partition(".")[0] != "backend"]
    return run_folder.find(run, compose.runs_dir(others, config_dirs))


def attach_to(folder: Path, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Run:
    """Return the run in a folder, by the backend that its receipt names."""
    config = config_of_run(folder, overrides, config_dirs)
    return backend_class(config.backend.name)(config).attach(folder)


def ends_with_its_command(config: Config) -> bool:
    """Tell whether a run of this backend ends with the command that started it."""
    return backend_class(config.backend.name).ends_with_its_command


def statuses(folders: Sequence[Path]) -> dict[Path, Status]:
    """Return where runs stand, but for those that are removed meanwhile.

    Where a backend is not installed here, that is what the receipts say.
    """
    backends: dict[str, Backend | None] = {}
    found = {}
    for folder in folders:
        with suppress(BackendError):
            found[folder] = _status(folder, backends)
    return found


def _status(folder: Path, backends: dict[str, Backend | None]) -> Status:
    """Return where a run stands, by one backend for all runs of its name."""
    receipt = run_folder.read_receipt(folder)
    backend = None
    try:
        if receipt.backend not in backends:
            backends[receipt.backend] = None
            config = config_of_run(folder, (), ())
            backends[receipt.backend] = backend_class(config.backend.name)(config)
        backend = backends[receipt.backend]
        return backend.attach(folder).status() if backend is not None else receipt.status
    except BackendError:
        if backend is not None and not backend.ends_with_its_command:
            backends[receipt.backend] = None  # a place that does not answer is asked once
        return receipt.status
    except MnistCnnError:
        return receipt.status


def plan_of(config: Config) -> Plan:
    """Say what would be trained, where and into which folder."""
    from mnist_cnn.data import datasets

    _refuse_force(config)
    if config.run.run_dir is not None:
        run_folder.check_free(Path(config.run.run_dir))
    info = datasets.inspect(config.data, download=False)
    if info is None:
        described = f"{config.data.name}, not here yet: downloaded when a run starts"
        job_lines: tuple[tuple[str, str], ...] = (("job", "its digest is known when the data are here"),)
        where: tuple[tuple[str, str], ...] = ()
    else:
        job = _job(config, info)
        described = (
            f"{config.data.name} ({info.location}), {_counts(config, info)}, {config.data.format.value}"
        )
        job_lines = (("job", job.digest),)
        where = backend_class(config.backend.name)(config).plan(job).lines
    registered = "nowhere"
    if config.register.name is not None:
        registered = f"as {config.register.name}, from a test accuracy of {config.register.min_accuracy:g} on"
    return Plan(
        (
            *job_lines,
            ("data", described),
            ("model", _describe_model(config)),
            ("train", _describe_training(config.train)),
            ("seed", str(config.run.seed)),
            ("folder", config.run.run_dir or f"a new one under {config.run.runs_dir}"),
            ("backend", config.backend.name),
            *where,
            ("registered", registered),
        )
    )


def config_of_run(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Compose the configuration for a run that there is: its backend is the one that its receipt names."""
    receipt = run_folder.read_receipt(folder)
    return compose.load(overrides, config_dirs, backend=(receipt.backend, receipt.backend_settings))


def _check_unchanged(folder: Path, job: Job, receipt: run_folder.Receipt, *, force: bool) -> None:
    """Check that a run would go on as it began, as far as that is known before it starts.

    Raises:
        ConfigurationError: job or packages have changed, and nothing forces it.
    """
    kept = Checkpoints(folder / run_folder.CHECKPOINTS).newest()
    if kept is not None:
        changes = kept.job.changes_to(job)
    else:
        changes = () if job.has_digest(receipt.job_digest) else ("the job",)
    if receipt.versions:
        changes += changed_versions(receipt.versions, versions())
    if changes and not force:
        raise ConfigurationError(
            f"{folder} cannot be resumed exactly: {', '.join(changes)}", changed_hint(str(folder))
        )
    with run_folder.lock(folder):  # whoever starts it now removes what is half-written
        run_folder.write_job(folder, job)  # with the digest that fits it, where it was changed by hand


def _refuse_force(config: Config) -> None:
    if config.run.force:
        raise ConfigurationError("force=true is for resume alone", "leave it out")


def _job(config: Config, info: DataSetInfo) -> Job:
    model = config.model
    if model.file is not None:
        path = Path(model.file)
        try:
            source = safe_read.read_text(path, SOURCE_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            message = f"model.file={model.file} cannot be read: {reason}"
            raise ConfigurationError(message, "name a Python file that defines build()") from error
        model = dataclasses.replace(model, file=path.name, source=source)
    check_network(model, info.height, info.width)
    folder = str(Path(config.data.dir).resolve()) if config.data.dir is not None else None
    return Job(
        data=dataclasses.replace(config.data, dir=folder, digest=info.digest),
        model=model,
        train=config.train,
        seed=config.run.seed,
        save_h5=config.run.save_h5,
    )


def _counts(config: Config, info: DataSetInfo) -> str:
    train = config.data.train_limit or info.train_images
    held_out = f", {config.data.validation} of them for validation" if config.data.validation else ""
    return f"{train} training images{held_out}, {config.data.test_limit or info.test_images} test images"


def _describe_model(config: Config) -> str:
    model = config.model
    if model.file is not None:
        return f"built by {model.file}"
    layers = []
    for number, (kernel_size, stride) in enumerate(convolutions(model), 1):
        step = f"/{stride}" if stride > 1 else ""
        layers.append(f"conv {kernel_size}x{kernel_size}{step}x{model.filters[number - 1]}")
        if number in model.pooled_convolutions:
            layers.append(f"maxpool {model.pool_size}x{model.pool_size}")
        if is_normalised(model, number):
            layers.append("batch norm")
    if model.conv_dropout:
        layers.append(f"dropout {model.conv_dropout:g}")
    if model.dense_units:
        layers.append(f"dense {model.dense_units}")
        if model.dense_dropout:
            layers.append(f"dropout {model.dense_dropout:g}")
    return " - ".join([*layers, f"dense {config.data.num_classes}"])


def _describe_training(train: TrainConfig) -> str:
    rate = f"{train.optimizer.value}, learning rate {train.learning_rate:g}"
    if train.schedule is Schedule.one_cycle:
        rate += " in one cycle"
    changes = [
        f"{name} {value:g}"
        for name in ("rotation", "zoom", "shear", "shift")
        if (value := getattr(train, name))
    ]
    if changes and train.unaugmented_epochs:
        changes.append(f"but not in the last {_epochs(train.unaugmented_epochs)}")
    smoothing = [f"label smoothing {train.label_smoothing:g}"] if train.label_smoothing else []
    how = f"{_epochs(train.epochs)} in batches of {train.batch_size}"
    return ", ".join(
        [how, rate, train.loss.value, *smoothing, *changes, f"precision {train.precision.value}"]
    )


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"
