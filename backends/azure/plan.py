"""Turns a job and its configuration into a request.

Pure: needs no credentials and no SDK.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import mnist_cnn
from mnist_cnn.backends import common
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.backends.remote import node, snapshot
from mnist_cnn.config import Numerics
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.snapshot import SentFile
    from mnist_cnn.job import Job

DATA_MOUNT, CHECKPOINT_MOUNT = "DATA_MOUNT", "CHECKPOINT_MOUNT"
"""Placeholders for the node's mounted folders."""
CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251130.v1"
GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.5-ubuntu22.04:20251130.v1"
"""Base images that azureml-core lists.

TensorFlow's CUDA libraries are separate packages.
"""
NODE_PACKAGES = {"azureml-core": "1.61.0.post4"}
"""Packages that SDK v1's script needs to send metrics.

Not azureml-defaults: it also installs an inference server, and limits NumPy's version on Linux alone. The
script of SDK v2 sends metrics with `requests`.
"""
MAX_TAG = 1_000
"""Characters of a tag's value."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """The Python that trains: image, version and packages."""

    image: str
    python: str
    packages: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return a name made from the content.

        A later run with the same content reuses the image.
        """
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"mnist-cnn-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sent for a job.

    `arguments` contain DATA_MOUNT and CHECKPOINT_MOUNT.
    """

    experiment: str
    data_folder: str
    data_files: tuple[SentFile, ...]
    snapshot: tuple[SentFile, ...]
    environment: Environment
    arguments: tuple[str, ...]
    workers: int
    max_seconds: int
    tags: dict[str, str]


def request(job: Job, config: AzureConfig, *, force: bool = False, pause_after: int | None = None) -> Request:
    """Return the request; see `node.arguments` for `force` and `pause_after`.

    Raises:
        ConfigurationError: the job is too long to be sent, is exact and would train on a GPU, or cannot be
            shared by this number of workers.
        DataError: a data file is missing.
        BackendError: the code is too large to be sent.
    """
    if config.use_gpu and job.train.numerics is Numerics.exact:
        message = "train.numerics=exact trains on the CPU only, but backend.use_gpu=true requires a GPU"
        raise ConfigurationError(message, "set backend.use_gpu=false, or train.numerics=native")
    common.check_workers(job, config.workers)
    sdk = checks.chosen_sdk(config)
    return Request(
        experiment=config.experiment,
        data_folder=snapshot.data_folder(job.data),
        data_files=snapshot.data_files(job.data),
        snapshot=snapshot.files(entry=entry(sdk)),
        environment=environment(sdk, use_gpu=config.use_gpu),
        arguments=node.arguments(
            job,
            DATA_MOUNT,
            CHECKPOINT_MOUNT,
            device="gpu" if config.use_gpu else "auto",
            force=force,
            workers=config.workers,
            pause_after=pause_after,
        ),
        workers=config.workers,
        max_seconds=config.max_duration * 60,
        tags=tags(job),
    )


def entry(sdk: Sdk) -> Path:
    """Return the node's script in the SDK's package."""
    return Path(__file__).parent / sdk.value / "entry.py"


def environment(sdk: Sdk, *, use_gpu: bool) -> Environment:
    """Return an environment with the local Python and dependencies."""
    pins = {name: version(name) for name in _dependencies()}
    if sdk is Sdk.v1:
        pins |= NODE_PACKAGES
        with suppress(PackageNotFoundError):
            pins["azureml-core"] = version("azureml-core")
    packages = tuple(
        f"{name}{'[and-cuda]' if use_gpu and name == 'tensorflow' else ''}=={pin}"
        for name, pin in sorted(pins.items())
    )
    python = ".".join(platform.python_version_tuple()[:2])
    return Environment(GPU_IMAGE if use_gpu else CPU_IMAGE, python, packages)


def tags(job: Job) -> dict[str, str]:
    """Return the job's main settings, for the studio."""
    settings = {
        "job_digest": job.digest,
        "data": job.data.name,
        "epochs": job.train.epochs,
        "batch_size": job.train.batch_size,
        "optimizer": job.train.optimizer.value,
        "learning_rate": f"{job.train.rate:g}",
        "precision": job.train.precision.value,
        "numerics": job.train.numerics.value,
        "seed": job.seed,
    }
    return {name: str(value)[:MAX_TAG] for name, value in settings.items()}


def describe(request: Request, config: AzureConfig) -> tuple[tuple[str, str], ...]:
    """Return labels and values that describe a request."""
    sent = ", ".join(f"{file.name} {file.bytes:,} B" for file in request.data_files)
    code = sum(file.bytes for file in request.snapshot)
    snapshot_lines = [f"{file.name} {file.bytes:,} B" for file in request.snapshot]
    python = f"Python {request.environment.python}, {request.environment.image}"
    several = (("workers", f"{request.workers}, each on a node of its own"),)
    try:
        workspace = str(checks.workspace_file(config.workspace))
    except ConfigurationError as error:
        workspace = f"{error.message}: {error.hint}"
    return (
        ("workspace", workspace),
        ("SDK", checks.chosen_sdk(config).value),
        ("experiment", request.experiment),
        ("cluster", f"{config.cluster}: {config.nodes}, idle ones released after {config.idle_seconds} s"),
        *(several if request.workers > 1 else ()),
        ("upload", f"to {request.data_folder}/ on the default datastore: {sent}"),
        ("snapshot", _under(f"{len(request.snapshot)} files, {code:,} B", snapshot_lines)),
        ("environment", _under(f"{request.environment.name}: {python}", request.environment.packages)),
        ("arguments", node.without_job(request.arguments)),
        ("duration", f"at most {config.max_duration} minutes"),
        ("retries", f"{config.preemption_retries} after preemptions that the service does not retry itself"),
    )


def _under(head: str, lines: Sequence[str]) -> str:
    """Put lines under `head`, in a plan's value column."""
    return "\n".join((head, *(f"{'':<11} {line}" for line in lines)))


def _dependencies() -> list[str]:
    """Return the names of the required dependencies, without extras."""
    try:
        needed = [line for line in requires("mnist-cnn") or [] if "extra ==" not in line]
    except PackageNotFoundError:  # a checkout that isn't installed
        project = Path(mnist_cnn.__file__).parent.parent / "pyproject.toml"
        needed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return sorted({re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0].lower() for line in needed})
