"""From overrides to a run: what the command line and a notebook both call.

Everything that can be checked without starting anything is checked before a folder is made.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import compose, data, run_folder
from mnist_cnn.backend import Plan, Status
from mnist_cnn.backends import backend_class, is_outside
from mnist_cnn.errors import ConfigurationError, MnistCnnError
from mnist_cnn.job import Job
from mnist_cnn.model import check_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backend import Run
    from mnist_cnn.config import Config


def make_job(*overrides: str) -> Job:
    """Make the job that these overrides describe; data that are not here yet are downloaded.

    Raises:
        ConfigurationError, DataError: what is wrong with the configuration or the data.
    """
    return job_of(compose.load(overrides))


def plan(*overrides: str) -> Plan:
    """Say what `submit` would do with these overrides; nothing is written, sent or downloaded."""
    return plan_of(compose.load(overrides))


def submit(*overrides: str) -> Run:
    """Start a run with these overrides and return it; `wait()` gives its result.

    Raises:
        ConfigurationError, DataError, BackendError: it cannot be started.
    """
    config = compose.load(overrides)
    return start(config, job_of(config))


def attach(run: str = run_folder.LATEST, *overrides: str) -> Run:
    """Return a run by its folder, its name under `runs_dir` or `latest`.

    Raises:
        ConfigurationError: there is no such run.
    """
    return attach_to(run_folder.find(run, compose.load(overrides).run.runs_dir), overrides)


def job_of(config: Config) -> Job:
    """Make a configuration's job. Raises as `make_job` does."""
    info = data.inspect(config.data)
    if info is None:
        message = f"the data set {config.data.name} is not here"
        raise ConfigurationError(message, "set data.dir=FOLDER to a folder that holds it")
    return _job(config, info)


def start(config: Config, job: Job) -> Run:
    """Make the run folder and hand the job to its backend."""
    backend = backend_class(config.backend.name)(config)
    folder = run_folder.create(config.run.run_dir, config.run.runs_dir, job)
    return backend.submit(job, folder)


def resume(run: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Run:
    """Start an interrupted run again, in its folder, from its newest checkpoint.

    Raises:
        ConfigurationError: there is no such run, or it is running, or completed.
    """
    folder = run_folder.find(run, compose.load(overrides, config_dirs).run.runs_dir)
    status = attach_to(folder, overrides, config_dirs).status()
    if not status.is_final:
        raise ConfigurationError(f"{folder} is {status.value}", f"watch it: follow {folder}")
    if status is Status.completed:
        raise ConfigurationError(f"{folder} is completed", "there is nothing to go on with; start a new run")
    config = _config_of_run(folder, overrides, config_dirs)
    return backend_class(config.backend.name)(config).submit(run_folder.read_job(folder), folder)


def attach_to(folder: Path, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Run:
    """Return the run in a folder, by the backend that its receipt names."""
    config = _config_of_run(folder, overrides, config_dirs)
    return backend_class(config.backend.name)(config).attach(folder)


def status_of(folder: Path) -> Status:
    """Return where a run stands; where its backend is not installed here, what its receipt says."""
    try:
        return attach_to(folder).status()
    except MnistCnnError:
        return run_folder.read_receipt(folder).status


def plan_of(config: Config) -> Plan:
    """Say what would be trained, where and into which folder."""
    if config.run.run_dir is not None:
        run_folder.check_free(Path(config.run.run_dir))
    info = data.inspect(config.data, download=False)
    train = config.train
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
    rate = f"{train.optimizer.value}, learning rate {train.learning_rate:g}"
    how = f"{train.epochs} epochs in batches of {train.batch_size}, {rate}, {train.loss.value}"
    registered = "nowhere"
    if config.register.name is not None:
        registered = f"as {config.register.name}, from a test accuracy of {config.register.min_accuracy:g} on"
    return Plan(
        (
            *job_lines,
            ("data", described),
            ("model", _describe_model(config)),
            ("train", f"{how}, {train.precision.value}"),
            ("seed", str(config.run.seed)),
            ("folder", config.run.run_dir or f"a new one under {config.run.runs_dir}"),
            ("backend", config.backend.name),
            *where,
            ("registered", registered),
        )
    )


def _config_of_run(folder: Path, overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Compose the configuration for a run that there is: its backend is the one that its receipt names."""
    name = run_folder.read_receipt(folder).backend
    if is_outside(name):
        name = "'" + name.replace("'", r"\'") + "'"
    others = [override for override in overrides if not override.startswith("backend=")]
    return compose.load([*others, f"backend={name}"], config_dirs)


def _job(config: Config, info: data.DataSetInfo) -> Job:
    model = config.model
    if model.file is not None:
        path = Path(model.file)
        try:
            model = dataclasses.replace(model, file=path.name, source=path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            message = f"model.file={model.file} cannot be read: {reason}"
            raise ConfigurationError(message, "name a Python file that defines build()") from error
    check_network(model, info.height, info.width)
    folder = str(Path(config.data.dir).resolve()) if config.data.dir is not None else None
    return Job(
        data=dataclasses.replace(config.data, dir=folder, digest=info.digest),
        model=model,
        train=config.train,
        seed=config.run.seed,
        save_h5=config.run.save_h5,
    )


def _counts(config: Config, info: data.DataSetInfo) -> str:
    train = config.data.train_limit or info.train_images
    held_out = f", {config.data.validation} of them for validation" if config.data.validation else ""
    return f"{train} training images{held_out}, {config.data.test_limit or info.test_images} test images"


def _describe_model(config: Config) -> str:
    model = config.model
    if model.file is not None:
        return f"built by {model.file}"
    convolutions = " - ".join(
        f"conv {model.kernel_size}x{model.kernel_size}x{filters}" for filters in model.filters
    )
    pooling = f"maxpool {model.pool_size}x{model.pool_size} - dropout {model.conv_dropout:g}"
    dense = f"dense {model.dense_units} - dropout {model.dense_dropout:g} - dense {config.data.num_classes}"
    return f"{convolutions} - {pooling} - {dense}"
