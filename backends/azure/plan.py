"""Job and configuration -> the request that would be sent. Pure; needs no credentials and knows no SDK."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import platform
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import mnist_cnn
from mnist_cnn.backends.azure import checks, snapshot
from mnist_cnn.data import datasets
from mnist_cnn.data.download import find_source
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.job import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.azure.snapshot import SnapshotFile
    from mnist_cnn.config import DataConfig

DATA_MOUNT, CHECKPOINT_MOUNT = "DATA_MOUNT", "CHECKPOINT_MOUNT"
"""Stand in an argument list for what is known only on the node: where the datastore is mounted."""
CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251130.v1"
GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.8-cudnn8-ubuntu22.04:20251130.v1"
"""The SDK's own base images; CUDA for TensorFlow comes with its packages."""
NODE_PACKAGES = {"azureml-defaults": "1.62.0", "azureml-core": "1.61.0.post4"}
"""What the node needs besides the trainer: to be started by the service, and to send its metrics."""
MAX_ARGUMENT = 100_000
"""Characters; Linux takes 131,072 bytes in one argument."""
MAX_TAG = 1_000


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A data file: its name on the datastore, where it is here, its length in bytes."""

    name: str
    source: Path
    bytes: int


@dataclasses.dataclass(frozen=True)
class Environment:
    """The Python that trains: image, minor version and pinned packages; equal ones have equal names."""

    image: str
    python: str
    packages: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name the environment by its content, so that a second run finds the image ready."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"mnist-cnn-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class Request:
    """All that is sent for a job. `arguments` has DATA_MOUNT and CHECKPOINT_MOUNT for the mounted folders."""

    experiment: str
    data_folder: str
    data_files: tuple[DataFile, ...]
    snapshot: tuple[SnapshotFile, ...]
    environment: Environment
    arguments: tuple[str, ...]
    max_seconds: int
    tags: dict[str, str]


def request(job: Job, config: AzureConfig, *, force: bool = False) -> Request:
    """Say what would be sent; with `force` the run goes on also where job or machine have changed.

    Raises:
        ConfigurationError: the job cannot be sent so.
        DataError: the data files are not there.
        BackendError: the code cannot be read.
    """
    return Request(
        experiment=config.experiment,
        data_folder=data_folder(job.data),
        data_files=data_files(job.data),
        snapshot=snapshot.files(),
        environment=environment(use_gpu=config.use_gpu),
        arguments=arguments(job, use_gpu=config.use_gpu, force=force),
        max_seconds=config.max_duration * 60,
        tags=tags(job),
    )


def data_folder(config: DataConfig) -> str:
    """Return the datastore's folder for a data set: sets that differ never share one."""
    packaged = find_source("mnist")
    if config.digest == packaged.digest:
        return packaged.name
    return config.name if config.dir is None else f"data-{str(config.digest)[:12]}"


def data_files(config: DataConfig) -> tuple[DataFile, ...]:
    """Return the four files under their official names, gzipped or raw as they are here."""
    stems = (stems[0] for stems in datasets.STEMS)
    return tuple(
        DataFile(f"{stem}{'.gz' if path.suffix == '.gz' else ''}", path, path.stat().st_size)
        for stem, path in zip(stems, datasets.files(config), strict=True)
    )


def environment(*, use_gpu: bool) -> Environment:
    """Pin this side's Python minor version and the versions of all that mnist_cnn asks for."""
    pins = {name: version(name) for name in _dependencies()}
    for name, otherwise in NODE_PACKAGES.items():
        pins[name] = otherwise if name == "azureml-defaults" else _version(name, otherwise)
    packages = tuple(
        f"{name}{'[and-cuda]' if use_gpu and name == 'tensorflow' else ''}=={pin}"
        for name, pin in sorted(pins.items())
    )
    python = ".".join(platform.python_version_tuple()[:2])
    return Environment(GPU_IMAGE if use_gpu else CPU_IMAGE, python, packages)


def arguments(job: Job, *, use_gpu: bool, force: bool = False) -> tuple[str, ...]:
    """Return the entry script's argument list; the job is one base64url token, each mount one of its own."""
    token = encode(job)
    if len(token) > MAX_ARGUMENT:
        message = f"the job is {len(token)} characters as an argument; a node takes {MAX_ARGUMENT}"
        raise ConfigurationError(message, "shorten the file of model.file")
    device = ("--device", "gpu") if use_gpu else ()
    forced = ("--force", "true") if force else ()
    return ("--job", token, "--data-folder", DATA_MOUNT, "--checkpoints", CHECKPOINT_MOUNT, *device, *forced)


def encode(job: Job) -> str:
    """Return a job as one token of letters, digits, '-' and '_'."""
    portable = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=None))
    return base64.urlsafe_b64encode(portable.to_json().encode()).decode().rstrip("=")


def decode(token: str) -> Job:
    """Return the job of a token. Raises ConfigurationError where it is none."""
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError as error:
        raise ConfigurationError("--job is no job", "start the run with python -m mnist_cnn") from error
    return Job.from_json(text, "--job")


def tags(job: Job) -> dict[str, str]:
    """Return the job's main settings, for people who look at the run in the studio."""
    settings = {
        "job_digest": job.digest,
        "data": job.data.name,
        "epochs": job.train.epochs,
        "batch_size": job.train.batch_size,
        "optimizer": job.train.optimizer.value,
        "learning_rate": f"{job.train.learning_rate:g}",
        "precision": job.train.precision.value,
        "seed": job.seed,
    }
    return {name: str(value)[:MAX_TAG] for name, value in settings.items()}


def describe(asked: Request, config: AzureConfig) -> tuple[tuple[str, str], ...]:
    """Word a request for people: labels and values, in order."""
    nodes = f"{config.min_nodes} to {config.max_nodes} {config.priority.value} nodes of {config.vm_size}"
    sent = ", ".join(f"{file.name} {file.bytes:,} B" for file in asked.data_files)
    code = sum(file.bytes for file in asked.snapshot)
    snapshot_lines = [f"{file.name} {file.bytes:,} B" for file in asked.snapshot]
    python = f"Python {asked.environment.python}, {asked.environment.image}"
    try:
        workspace = str(checks.workspace_file(config.workspace))
    except ConfigurationError as error:
        workspace = f"{error.message}: {error.hint}"
    lines = [
        ("workspace", workspace),
        ("experiment", asked.experiment),
        ("cluster", f"{config.cluster}: {nodes}, idle for {config.idle_seconds} s at most"),
        ("upload", f"to {asked.data_folder}/ of the default datastore: {sent}"),
        ("snapshot", _under(f"{len(asked.snapshot)} files, {code:,} B", snapshot_lines)),
        ("environment", _under(f"{asked.environment.name}: {python}", asked.environment.packages)),
        ("arguments", " ".join(asked.arguments)),
        ("duration", f"{config.max_duration} minutes at most"),
        (
            "retries",
            f"{config.preemption_retries}, where its node is taken away and the service gives it no other",
        ),
    ]
    return tuple(lines)


def _under(head: str, lines: Sequence[str]) -> str:
    """Put lines under the first one, in the column where a plan's values stand."""
    return "\n".join((head, *(f"{'':<11} {line}" for line in lines)))


def _dependencies() -> list[str]:
    """Return the names of what mnist_cnn itself asks for, extras aside."""
    try:
        asked = [line for line in requires("mnist-cnn") or [] if "extra ==" not in line]
    except PackageNotFoundError:  # a checkout that was never installed
        project = Path(mnist_cnn.__file__).parent.parent / "pyproject.toml"
        asked = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return sorted({re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0].lower() for line in asked})


def _version(name: str, otherwise: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return otherwise
