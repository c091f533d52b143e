"""The settings of `backend=slurm`.

Their values cannot add an option or a line to the script.
"""

from __future__ import annotations

import dataclasses
import re

from mnist_cnn.config import BackendConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import setting, written

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@-]*")
NAME_RULE = "letters, digits, '_', '.', ',', '+', '@' and '-'; starts with a letter, a digit or '_'"
OPTION = re.compile(r"--([a-z][a-z-]*)(?:=[^\s'\"\\#=]\S*)?")
OPTION_RULE = "one option in its long form, --NAME or --NAME=VALUE, without spaces, quotes, '\\' and '#'"
OWN_OPTIONS = {
    "account": "backend.account",
    "cpus-per-task": "backend.cpus",
    "gres": "backend.gpus",
    "mem": "backend.memory",
    "no-requeue": "backend.preemption_retries",
    "partition": "backend.partition",
    "qos": "backend.qos",
    "requeue": "backend.preemption_retries",
    "time": "backend.max_duration",
}
"""Options of the script that a key sets."""
FIXED_OPTIONS = (
    *("array", "batch", "chdir", "clusters", "error", "export", "export-file", "get-user-env", "gid", "help"),
    *("input", "job-name", "nodes", "ntasks", "open-mode", "output", "parsable", "quiet", "signal"),
    *("test-only", "time-min", "uid", "usage", "version", "wait", "wrap"),
)
"""Options that the backend sets, or can't support."""


@dataclasses.dataclass(frozen=True)
class SlurmConfig(BackendConfig):
    partition: str | None = setting(None, "the partition; null is the cluster's default")
    account: str | None = setting(None, "the account that pays; null is your default")
    qos: str | None = setting(None, "the quality of service; null is your default")
    workers: int = setting(
        1,
        "tasks that share the shards of a batch, on the CPUs of one or more nodes",
        unit="tasks",
        ge=1,
        le=1024,
    )
    cpus: int = setting(4, "CPUs of each worker", unit="CPUs", ge=1, le=1024)
    memory: int | None = setting(
        None, "memory of each worker; null is the partition's default", unit="GB", ge=1, le=65_536
    )
    gpus: int = setting(0, "GPUs on the node; 0 trains on its CPUs", unit="GPUs", ge=0, le=64)
    max_duration: int = setting(
        120, "Slurm ends a run that takes longer", unit="minutes", ge=2, le=365 * 24 * 60
    )
    python: str | None = setting(
        None, "the Python on the nodes, with this package's dependencies; null is the one that runs here"
    )
    setup: tuple[str, ...] = setting(
        (), 'commands of bash before the training, for example ["module load cuda"]; each must succeed'
    )
    sbatch: tuple[str, ...] = setting(
        (), 'more options of sbatch in their long form, for example ["--exclude=n1"]'
    )
    preemption_retries: int = setting(
        3, "how often a run is started again after it lost its node; 0 never requeues it", ge=0, le=100
    )
    queue_timeout: int = setting(
        86_400, "how long a followed run may wait for a node", unit="seconds", ge=1, le=30 * 24 * 3600
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers > 1 and self.gpus:
            message = f"backend.workers={self.workers} train on CPUs, but backend.gpus={self.gpus}"
            raise ConfigurationError(message, "set backend.workers=1, or backend.gpus=0")
        for name in ("partition", "account", "qos"):
            value = getattr(self, name)
            if value is not None and not NAME.fullmatch(value):
                message = f"backend.{name}={written(value)}: must be {NAME_RULE}"
                raise ConfigurationError(message, "sinfo and sacctmgr list the cluster's names")
        for name, values in (("python", (self.python or "python",)), ("setup", self.setup)):
            for value in values:
                if not value.strip() or not value.isprintable() or value.endswith("\\"):
                    message = (
                        f"backend.{name}={value!r}: it is empty, has a control character or ends in '\\'"
                    )
                    raise ConfigurationError(message, "write each command as an item of its own")
        for option in self.sbatch:
            _check_option(option)


def _check_option(option: str) -> None:
    match = OPTION.fullmatch(option)
    if match is None or not option.isprintable() or re.search(r"['\"\\#]", option):
        message = f"backend.sbatch={written(option)!r}: an item is {OPTION_RULE}"
        raise ConfigurationError(message, "quote it: 'backend.sbatch=[\"--constraint=avx512\"]'")
    name = match[1]
    # sbatch accepts the beginning of a name too.
    own = next((key for known, key in OWN_OPTIONS.items() if known.startswith(name)), None)
    if own is not None:
        raise ConfigurationError(f"backend.sbatch={option}: this option has a key of its own", f"use {own}")
    if any(fixed.startswith(name) for fixed in FIXED_OPTIONS):
        message = f"backend.sbatch={option}: the backend sets this option, or cannot follow such a job"
        raise ConfigurationError(message, "leave it out")
