"""The settings of `backend=azure`, and rules for names.

Doesn't import the SDK. Microsoft publishes the rules for names and the limits of Azure Machine Learning:
https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules and
https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import ClassVar

from mnist_cnn.config import BackendConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import Section, inner, setting, written

# Microsoft's pages disagree on compute names. This accepts what all of them accept.
CLUSTER_NAME = re.compile(r"(?![A-Za-z0-9-]*-\d+$)[A-Za-z][A-Za-z0-9-]{1,14}[A-Za-z0-9]")
CLUSTER_NAME_RULE = (
    "3 to 16 letters, digits and '-'; starts with a letter, ends in a letter or digit, not in '-' and digits"
)
RESERVED_NAMES = ("amlcompute", "local", "containerinstance")
EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,35}")
EXPERIMENT_NAME_RULE = "3 to 36 letters, digits, '_' and '-'; starts with a letter or digit"
VM_SIZE = re.compile(r"(?:STANDARD|BASIC)_[A-Z0-9_-]{1,56}", re.IGNORECASE)
VM_SIZE_RULE = "a size is STANDARD_ or BASIC_, then letters, digits, '_' and '-'"
SUBNET = re.compile(
    r"/subscriptions/(?P<subscription>[\w-]+)/resourceGroups/(?P<group>[\w.()-]+)/providers/Microsoft\.Network"
    r"/virtualNetworks/(?P<network>[\w.-]+)/subnets/(?P<subnet>[\w.-]+)",
    re.IGNORECASE,
)
SUBNET_FORM = (
    "/subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/NETWORK/subnets/NAME"
)
LOW_PRIORITY_MINUTES = 7 * 24 * 60
"""Longest run on low-priority nodes.

Dedicated ones allow 21 days.
"""
DEFAULT_VM_SIZE = "STANDARD_D2DS_V4"
"""Two cores, as the tutorial's STANDARD_D2_V2 has.

Azure retires that size on 2028-05-01, and runs it on six generations of processors. Ddsv4 is the newest
general series that Microsoft lists for clusters. All its processors have AVX-512, and it has no date of
retirement. https://learn.microsoft.com/azure/machine-learning/concept-compute-target
"""
GPU_VM_SIZE = "STANDARD_NC4AS_T4_V3"
"""The smallest size with a GPU.

Microsoft lists it for clusters, and has not retired it.
"""


class Priority(StrEnum):
    """The nodes' priority. Low-priority nodes are preemptible Spot machines.

    Azure Machine Learning retired low-priority machines on 2026-03-31, but not the word.
    """

    dedicated = "dedicated"
    lowpriority = "lowpriority"


class Sdk(StrEnum):
    """The SDK to use: azureml-sdk (v1) or azure-ai-ml (v2)."""

    v1 = "v1"
    v2 = "v2"


@dataclasses.dataclass(frozen=True)
class AzureDataConfig(Section):
    GROUP: ClassVar[str] = "backend.data"
    overwrite: bool = setting(
        default=False, meaning="send the data files even if the datastore already has the same ones"
    )


@dataclasses.dataclass(frozen=True)
class AzureConfig(BackendConfig):
    sdk: Sdk | None = setting(
        None, "v1 is azureml-sdk, v2 is azure-ai-ml; null is v1 if that is installed, else v2"
    )
    workspace: str | None = setting(
        None, "the workspace's config.json or its folder; null searches as the SDK does"
    )
    experiment: str = setting("mnist-cnn", f"the experiment's name: {EXPERIMENT_NAME_RULE}")
    cluster: str = setting("traincluster", f"the cluster's name: {CLUSTER_NAME_RULE}")
    vm_size: str = setting(DEFAULT_VM_SIZE, "VM size of a new cluster's nodes")
    priority: Priority = setting(
        Priority.dedicated, "priority of a new cluster's nodes; lowpriority means Spot, with preemptions"
    )
    workers: int = setting(
        1, "nodes that share the shards of a batch, on their CPUs", unit="nodes", ge=1, le=100
    )
    min_nodes: int = setting(
        0, "nodes that are kept, and billed, while the cluster is idle", unit="nodes", ge=0, le=100
    )
    max_nodes: int = setting(1, "largest number of nodes of a new cluster", unit="nodes", ge=1, le=100)
    idle_seconds: int = setting(
        120, "how long an idle node is kept, and billed", unit="seconds", ge=60, le=7 * 24 * 3600
    )
    subnet: str | None = setting(
        None, "resource id of the subnet of a new cluster's nodes; null: the service chooses the network"
    )
    public_ip: bool = setting(
        default=True, meaning="give each node of a new cluster a public address; private networks need none"
    )
    use_gpu: bool = setting(default=False, meaning="train on the node's GPU, with TensorFlow's CUDA packages")
    max_duration: int = setting(
        120, "the service cancels a run that takes longer", unit="minutes", ge=1, le=21 * 24 * 60
    )
    preemption_retries: int = setting(
        3, "how often a followed run is submitted again after its node was preempted", ge=0, le=100
    )
    resubmit_cancelled: bool = setting(
        default=False, meaning="submit a followed run again that was cancelled outside of this program"
    )
    queue_timeout: int = setting(
        3600,
        "how long a followed run may wait for a node; an image that is built gets an hour, or this",
        unit="seconds",
        ge=1,
        le=604_800,
    )
    data: AzureDataConfig = inner(AzureDataConfig, "how data files are sent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not EXPERIMENT_NAME.fullmatch(self.experiment):
            raise _refused("experiment", self.experiment, EXPERIMENT_NAME_RULE, "mnist-cnn")
        if not CLUSTER_NAME.fullmatch(self.cluster):
            raise _refused("cluster", self.cluster, CLUSTER_NAME_RULE, "traincluster")
        if self.cluster.lower() in RESERVED_NAMES:
            raise _refused("cluster", self.cluster, "the service reserves this name", "traincluster")
        if not VM_SIZE.fullmatch(self.vm_size):
            raise _refused("vm_size", self.vm_size, VM_SIZE_RULE, DEFAULT_VM_SIZE)
        if self.subnet is not None and not SUBNET.fullmatch(self.subnet):
            message = f"backend.subnet={written(self.subnet)} is not the resource id of a subnet"
            raise ConfigurationError(message, f"it has the form {SUBNET_FORM}")
        self._check_nodes()
        if self.priority is Priority.lowpriority and self.max_duration > LOW_PRIORITY_MINUTES:
            limit = f"a run on Spot nodes (lowpriority) may take at most {LOW_PRIORITY_MINUTES} minutes"
            message = f"backend.max_duration={self.max_duration}: {limit}"
            raise ConfigurationError(message, "lower it, or set backend.priority=dedicated")

    def _check_nodes(self) -> None:
        if self.min_nodes > self.max_nodes:
            message = f"backend.min_nodes={self.min_nodes} is above backend.max_nodes={self.max_nodes}"
            raise ConfigurationError(message, "lower backend.min_nodes, or raise backend.max_nodes")
        if self.workers > self.max_nodes:
            message = f"backend.workers={self.workers} is above backend.max_nodes={self.max_nodes}"
            hint = f"each worker needs a node: set backend.max_nodes={self.workers}, or lower backend.workers"
            raise ConfigurationError(message, hint)
        if self.workers > 1 and self.use_gpu:
            message = f"backend.workers={self.workers} train on CPUs, but backend.use_gpu=true"
            raise ConfigurationError(message, "set backend.workers=1, or backend.use_gpu=false")
        if self.use_gpu and not has_gpu(self.vm_size):
            message = f"backend.use_gpu=true, but nodes of backend.vm_size={self.vm_size} have no GPU"
            hint = f"choose a size of the N series: backend.vm_size={GPU_VM_SIZE}"
            raise ConfigurationError(message, hint)

    @property
    def nodes(self) -> str:
        """The nodes of a new cluster, in words."""
        kind = "Spot" if self.priority is Priority.lowpriority else "dedicated"
        nodes = f"{self.min_nodes} to {self.max_nodes} {kind} nodes of {self.vm_size}"
        nodes += network(self.subnet, public_ip=self.public_ip)
        return f"{nodes}; {self.min_nodes} always billed (min_nodes)" if self.min_nodes else nodes


def has_gpu(vm_size: str) -> bool:
    """Return whether a VM size has a GPU.

    Only Azure's N series has: https://learn.microsoft.com/azure/virtual-machines/sizes/overview
    """
    return vm_size.upper().startswith("STANDARD_N")


def network(subnet: str | None, *, public_ip: bool) -> str:
    """Return what is special about the nodes' network.

    The text continues a line.
    """
    found = SUBNET.fullmatch(subnet or "")
    named = f"{found['subnet']} of network {found['network']}" if found else subnet
    return (f", in subnet {named}" if subnet else "") + ("" if public_ip else ", without public addresses")


def _refused(name: str, value: str, rule: str, example: str) -> ConfigurationError:
    hint = f"for example backend.{name}={example}"
    return ConfigurationError(f"backend.{name}={written(value)}: {rule}", hint)
