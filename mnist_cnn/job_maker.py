"""Make the job of a configuration.

Reads, checks and computes what it needs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read
from mnist_cnn.job import Job
from mnist_cnn.settings import written
from mnist_cnn.training import class_weights, initial_weights, metrics, stopping
from mnist_cnn.training.model import arrays_sha256, check_network

if TYPE_CHECKING:
    from mnist_cnn.config import Config, DataConfig, ModelConfig, TrainConfig
    from mnist_cnn.data.datasets import DataSetInfo

SOURCE_BYTES = 512 * 1024
"""Largest network file, in bytes.

job.json, which contains it, may be somewhat larger.
"""


def job_of(config: Config) -> Job:
    """Return a configuration's job.

    A missing data set is downloaded, and your own data are converted. Raises ConfigurationError or
    DataError if the configuration or the data are not valid.
    """
    from mnist_cnn.data import datasets

    config = with_own_data(config)
    info = datasets.inspect(config.data)
    if info is None:
        message = f"data set {config.data.name}: not found"
        raise ConfigurationError(message, "set data.dir=FOLDER to the folder that holds it")
    return make(config, info)


def make(config: Config, info: DataSetInfo) -> Job:
    """Return a configuration's job for data that are here.

    Raises as `job_of` does.
    """
    config = with_numbers(config, info.classes)
    model = config.model
    if model.file is not None:
        path = Path(model.file)
        model = dataclasses.replace(model, file=path.name, source=read_network(path))
    check_network(model, info.height, info.width)
    _check_class_names(config.data)
    stopping.check(config.train, config.data.validation)
    metrics.check(config.train.metrics)
    class_weights.check(config.train.class_weights, config.data.classes)
    _check_shards(config, info)
    train = _with_initial_weights(config, model, info)
    folder = str(Path(config.data.dir).resolve()) if config.data.dir is not None else None
    return Job(
        data=dataclasses.replace(config.data, dir=folder, digest=info.digest),
        model=model,
        train=train,
        seed=config.run.seed,
        save_h5=config.run.save_h5,
    )


def with_own_data(config: Config) -> Config:
    """Convert a configuration's own data, if any, to IDX files, which `data.dir` then names.

    Raises DataError, or BackendError if the cache cannot be written.
    """
    from mnist_cnn.own_data import conversion

    return dataclasses.replace(config, data=conversion.converted(config.data, config.run.seed))


def with_numbers(config: Config, classes: int) -> Config:
    """Replace a null learning rate and number of classes by numbers, which every job has."""
    data, train = config.data, config.train
    data = dataclasses.replace(data, num_classes=data.num_classes or classes)
    return dataclasses.replace(config, data=data, train=dataclasses.replace(train, learning_rate=train.rate))


def read_network(path: Path) -> str:
    """Return the text of the file `model.file`.

    Raises ConfigurationError.
    """
    try:
        return safe_read.read_text(path, SOURCE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        message = f"model.file={path} cannot be read: {reason}"
        raise ConfigurationError(message, "name a Python file that defines build()") from error


def _with_initial_weights(config: Config, model: ModelConfig, info: DataSetInfo) -> TrainConfig:
    """Return the `train` settings with their initial weights.

    Sets the weights' file and hash. Raises ConfigurationError or DataError.
    """
    train = config.train
    if train.init is None:
        if train.init_sha256 is not None:
            raise ConfigurationError("train.init_sha256 needs train.init", "train.init=RUN names the weights")
        return train
    path = initial_weights.locate(train.init, config.run.runs_dir)
    arrays = initial_weights.read(path, model)
    initial_weights.check_network(arrays, model, info, config.data.classes)
    sha256 = arrays_sha256(arrays)
    initial_weights.check_sha256(sha256, train.init_sha256 or sha256, f"train.init={train.init}")
    return dataclasses.replace(train, init=str(path), init_sha256=sha256)


def initial_weights_of(job: Job) -> initial_weights.Weights:
    """Return the weights that a job starts from.

    Raises ConfigurationError or DataError.
    """
    if job.train.init is None:
        message = "the job starts from weights, but does not say where they are"
        raise ConfigurationError(message, "make the job with train.init=RUN or train.init=FILE")
    path = Path(job.train.init)
    arrays = initial_weights.read(path, job.model)
    initial_weights.check_sha256(arrays_sha256(arrays), str(job.train.init_sha256), str(path))
    return arrays


def _check_class_names(data: DataConfig) -> None:
    if data.class_names and len(data.class_names) != data.classes:
        message = f"data.class_names={written(data.class_names)}: {len(data.class_names)} names"
        raise ConfigurationError(f"{message} for {data.classes} classes", "name each class, or leave it out")


def _check_shards(config: Config, info: DataSetInfo) -> None:
    """Check that each shard has an image.

    Shards are parts of a full batch. Raises ConfigurationError.
    """
    train, images = config.train, (config.data.train_limit or info.train_images) - config.data.validation
    if train.shards > min(train.batch_size, images):
        limit = f"train.batch_size={train.batch_size}"
        if images < train.batch_size:
            limit = f"the number of training images, {images}"
        raise ConfigurationError(f"train.shards={train.shards} is above {limit}", "lower train.shards")
