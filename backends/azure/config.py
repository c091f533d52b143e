"""The keys of `backend=azure`, with the names that the service takes. Pure; knows no SDK.

The rules of names and limits are those that Microsoft publishes for Azure Machine Learning:
https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules and
https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import ClassVar

from mnist_cnn.config import BackendConfig, Section, setting, written
from mnist_cnn.errors import ConfigurationError

# Microsoft's pages disagree on compute names; this is what all of them accept.
CLUSTER_NAME = re.compile(r"(?![A-Za-z0-9-]*-\d+$)[A-Za-z][A-Za-z0-9-]{1,14}[A-Za-z0-9]")
CLUSTER_NAME_RULE = (
    "3 to 16 letters, digits and '-', a letter first, a letter or digit last, not ending in '-' and digits"
)
RESERVED_NAMES = ("amlcompute", "local", "containerinstance")
EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,35}")
EXPERIMENT_NAME_RULE = "3 to 36 letters, digits, '_' and '-', a letter or digit first"
LOW_PRIORITY_MINUTES = 7 * 24 * 60
"""A job on low-priority nodes may take seven days, one on dedicated nodes 21."""


class Priority(StrEnum):
    """How nodes are had: low-priority ones cost less and can be taken away at any moment."""

    dedicated = "dedicated"
    lowpriority = "lowpriority"


@dataclasses.dataclass(frozen=True)
class AzureDataConfig(Section):
    """The keys of `backend.data`."""

    GROUP: ClassVar[str] = "backend.data"
    overwrite: bool = setting(
        default=False, meaning="send the data files also where the datastore has the same ones"
    )


@dataclasses.dataclass(frozen=True)
class AzureConfig(BackendConfig):
    """The keys of `backend=azure`."""

    workspace: str | None = setting(
        None, "the workspace's config.json or its folder; null looks for it as the SDK does"
    )
    experiment: str = setting("mnist-cnn", f"the experiment's name: {EXPERIMENT_NAME_RULE}")
    cluster: str = setting("traincluster", f"the cluster's name: {CLUSTER_NAME_RULE}")
    vm_size: str = setting("STANDARD_D2_V2", "size of a new cluster's nodes")
    priority: Priority = setting(
        Priority.dedicated, "a new cluster's nodes: lowpriority ones can be taken away"
    )
    min_nodes: int = setting(
        0, "nodes that stay, and cost, while the cluster has nothing to do", unit="nodes", ge=0, le=100
    )
    max_nodes: int = setting(1, "nodes that the cluster has at most", unit="nodes", ge=1, le=100)
    idle_seconds: int = setting(
        1800, "how long a node without a job stays", unit="seconds", ge=60, le=7 * 24 * 3600
    )
    use_gpu: bool = setting(default=False, meaning="train on the nodes' GPU, with TensorFlow's CUDA packages")
    max_duration: int = setting(
        120, "the service ends a run that takes longer", unit="minutes", ge=1, le=21 * 24 * 60
    )
    preemption_retries: int = setting(
        3,
        "how often a run whose node was taken away is started again, while it is followed",
        ge=0,
        le=100,
    )
    queue_timeout: int = setting(
        3600, "how long a run may wait for a node while it is followed", unit="seconds", ge=1, le=604_800
    )
    data: AzureDataConfig = setting(AzureDataConfig(), "how the data files are sent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not EXPERIMENT_NAME.fullmatch(self.experiment):
            raise _refused("experiment", self.experiment, EXPERIMENT_NAME_RULE, "mnist-cnn")
        if not CLUSTER_NAME.fullmatch(self.cluster):
            raise _refused("cluster", self.cluster, CLUSTER_NAME_RULE, "traincluster")
        if self.cluster.lower() in RESERVED_NAMES:
            raise _refused("cluster", self.cluster, "the service keeps this name for itself", "traincluster")
        if not re.fullmatch(r"[A-Za-z0-9_]{3,64}", self.vm_size):
            raise _refused("vm_size", self.vm_size, "letters, digits and '_' are allowed", "STANDARD_D2_V2")
        if self.min_nodes > self.max_nodes:
            message = f"backend.min_nodes={self.min_nodes} is above backend.max_nodes={self.max_nodes}"
            raise ConfigurationError(message, "lower the one or raise the other")
        if self.use_gpu and not has_gpu(self.vm_size):
            message = f"backend.use_gpu=true, but nodes of backend.vm_size={self.vm_size} have no GPU"
            raise ConfigurationError(message, "name a size of the N series: backend.vm_size=STANDARD_NC6S_V3")
        if self.priority is Priority.lowpriority and self.max_duration > LOW_PRIORITY_MINUTES:
            message = (
                f"backend.max_duration={self.max_duration}: on low-priority nodes a run may take "
                f"{LOW_PRIORITY_MINUTES} minutes"
            )
            raise ConfigurationError(message, "lower it, or set backend.priority=dedicated")


def has_gpu(vm_size: str) -> bool:
    """Tell whether a VM size has a GPU: Azure keeps the N series, and no other, for those.

    https://learn.microsoft.com/azure/virtual-machines/sizes/overview
    """
    return vm_size.upper().startswith("STANDARD_N")


def _refused(name: str, value: str, rule: str, example: str) -> ConfigurationError:
    return ConfigurationError(
        f"backend.{name}={written(value)}: {rule}", f"for example backend.{name}={example}"
    )
