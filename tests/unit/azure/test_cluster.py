"""How a cluster is created, compared and shown. The services are stand-ins."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from helpers.azure_runs import Clock
from helpers.sdk_fakes import config_of, provide

from mnist_cnn.backends.azure import cluster
from mnist_cnn.backends.azure.cluster import Cluster
from mnist_cnn.backends.azure.v1 import cluster as cluster_v1
from mnist_cnn.backends.remote.failures import NodesRefused
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError

SIZE = "STANDARD_D2_V2"
NETWORKS = "/subscriptions/s/resourceGroups/net-group/providers/Microsoft.Network/virtualNetworks"
SUBNET = f"{NETWORKS}/office/subnets/training"
LOW = (
    "backend.priority=lowpriority",
    "backend.min_nodes=1",
    "backend.max_nodes=3",
    "backend.idle_seconds=90",
)


def a_cluster(**changes: Any) -> Cluster:
    scale = tuple(changes.pop(name, value) for name, value in (("low", 0), ("high", 1), ("idle", 120)))
    settings = {"vm_size": "STANDARD_D2DS_V4", "priority": "Dedicated", "nodes": 1, "scale": scale}
    return Cluster(
        "traincluster",
        "AmlCompute",
        **{"state": "Succeeded", "status": {"currentNodeCount": 1}, **settings, **changes},
    )


class Creations:
    """A service that creates the cluster, or fails to; it lists what was asked of it."""

    def __init__(self, *outcomes: Exception | None, found: Cluster | None = None) -> None:
        self.asked: list[str] = []
        self._outcomes = list(outcomes)
        self._found = found

    def create(self) -> None:
        self.asked.append("create")
        if self._outcomes and (error := self._outcomes.pop(0)) is not None:
            raise error
        self._found = NEW

    def find(self) -> Cluster | None:
        self.asked.append("find")
        return self._found


NEW = a_cluster(state="Creating", status={})


def ensure(service: Creations) -> Cluster:
    return cluster.ensure(config_of(), None, service.create, service.find)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "time", Clock())


def test_a_cluster_is_created_as_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    provide(
        monkeypatch,
        "azureml.core.compute",
        AmlCompute=SimpleNamespace(provisioning_configuration=lambda **values: values),
        ComputeTarget=SimpleNamespace(create=lambda _, name, settings: sent.append((name, settings))),
    )
    monkeypatch.setattr(cluster_v1, "_send_creation_once", lambda: None)
    cluster_v1.request_creation(None, config_of(*LOW, f"backend.vm_size={SIZE}", f"backend.subnet={SUBNET}"))
    settings = {
        "vm_size": SIZE,
        "vm_priority": "lowpriority",
        "min_nodes": 1,
        "max_nodes": 3,
        "idle_seconds_before_scaledown": 90,
        "enable_node_public_ip": True,
        "vnet_resourcegroup_name": "net-group",
        "vnet_name": "office",
        "subnet_name": "training",
    }
    assert sent == [("traincluster", settings)]


def test_a_creation_without_an_answer_is_looked_for_before_it_is_repeated() -> None:
    service = Creations(ConnectionError("lost"), found=a_cluster())
    assert ensure(service) == a_cluster()
    assert service.asked == ["create", "find"]
    service = Creations(ConnectionError("lost"), None)
    assert ensure(service) == NEW
    assert service.asked == ["create", "find", "create", "find"]
    service = Creations(*[ConnectionError("lost")] * 3)
    with pytest.raises(ServiceError, match="cannot create the cluster traincluster"):
        ensure(service)
    assert service.asked == ["create", "find"] * 3


@pytest.mark.parametrize(
    ("answer", "status"),
    [(requests.ConnectionError("lost"), None), (503, 503), (429, 429), (400, 0), (201, 0)],
    ids=str,
)
def test_the_sdk_cannot_repeat_the_request_that_creates_a_cluster(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | int, status: int | None
) -> None:
    """The SDK retries what its session's `put` raises, if it knows the exception, and what it answers."""

    def put(_session: requests.Session, _url: str) -> requests.Response:
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer
        return response

    compute = SimpleNamespace(get_requests_session=requests.Session)
    retried = SimpleNamespace(RETRYABLE_STATUS_CODES={429, 503})
    provide(monkeypatch, "azureml.core.compute", compute=compute)
    provide(monkeypatch, "azureml._restclient", clientbase=retried)
    monkeypatch.setattr(requests.Session, "put", put)
    cluster_v1._send_creation_once()  # noqa: SLF001
    session = compute.get_requests_session()
    if status == 0:
        assert session.put("https://management.azure.com").status_code == answer
        return
    with pytest.raises(cluster_v1._CreationError) as raised:  # noqa: SLF001
        session.put("https://management.azure.com")
    assert raised.value.status_code == status
    assert not isinstance(raised.value, OSError)  # which includes what `requests` raises and the SDK retries


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vm_size": "Standard_D3_v2"}, "vm_size=STANDARD_D3_V2, not backend.vm_size=STANDARD_D2DS_V4"),
        ({"priority": "LowPriority"}, "priority=lowpriority, not backend.priority=dedicated"),
        ({"low": 1}, "min_nodes=1, not backend.min_nodes=0"),
        ({"high": 4}, "max_nodes=4, not backend.max_nodes=1"),
        ({"idle": 60}, "idle_seconds=60, not backend.idle_seconds=120"),
        ({"subnet": SUBNET}, f"subnet={SUBNET.lower()}, not backend.subnet=null"),
        ({"has_public_ip": False}, "public_ip=false, not backend.public_ip=true"),
    ],
)
def test_each_difference_from_the_configuration_is_reported(changes: dict[str, Any], line: str) -> None:
    expected = [f"cluster traincluster has {line}; it is not changed"]
    assert list(cluster.differences(a_cluster(**changes), config_of())) == expected
    assert not list(cluster.differences(a_cluster(), config_of()))


def test_a_cluster_with_fewer_nodes_than_workers_is_refused() -> None:
    config = config_of("backend.workers=2", "backend.max_nodes=2")
    cluster.check_usable(a_cluster(high=2), config)
    with pytest.raises(BackendError, match="workers=2, but cluster traincluster has max_nodes=1") as raised:
        cluster.check_usable(a_cluster(high=1), config)
    assert "in the studio" in raised.value.hint


def test_show_prints_the_status_as_the_sdk_serializes_it() -> None:
    assert 'cluster status: {"currentNodeCount": 1}' in list(cluster.show(a_cluster(), config_of()))
    failed = a_cluster(state="Failed", status={})
    assert not [line for line in cluster.show(failed, config_of()) if "status" in line]


def test_a_warning_of_the_service_is_shown_and_the_cluster_is_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clusters that work were seen with an error of that code."""
    error = {"code": "ClusterHasWarnings", "message": "The specified VMSize is being deprecated."}
    status = {"currentNodeCount": 0, "errors": [{"error": error}]}
    cluster.wait_until_ready(a_cluster(status=status), config_of(), lambda: None)
    said = "the service says of cluster traincluster: ClusterHasWarnings The specified VMSize"
    assert said in capsys.readouterr().err
    assert any(said in line for line in cluster.show(a_cluster(status=status), config_of()))


@pytest.mark.parametrize(
    ("nodes", "kept", "said"),
    [
        (None, 0, ["traincluster has no nodes (nothing is billed)"]),
        (0, 1, ["traincluster always keeps 1 node, billed until you delete it (min_nodes=1)"]),
        (1, 1, ["traincluster has 1 node, which is billed", "always keeps 1 node"]),
        (2, 0, ["traincluster has 2 nodes, which are billed", "released after 120 seconds"]),
    ],
)
def test_costs_name_the_nodes_that_are_billed(nodes: int | None, kept: int, said: list[str]) -> None:
    """A new cluster has no node yet, and its counts may be null."""
    lines = list(cluster.costs(a_cluster(nodes=nodes, low=kept), config_of()))
    found = [line for line in lines if not line.startswith("release them now")]
    assert len(found) == len(said)
    assert all(text in line for line, text in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("state", "size", "reason", "kind"),
    [
        ("Failed", "STANDARD_D2DS_V4", "not supported", NodesRefused),
        ("Failed", "STANDARD_D2DS_V4", "above the Quota", BackendError),
        ("Failed", "Standard_X99", "not supported", BackendError),
        ("Canceled", "STANDARD_D2DS_V4", "not supported", BackendError),
    ],
)
def test_a_failed_cluster_would_fail_again_only_with_the_same_size(
    state: str, size: str, reason: str, kind: type[BackendError]
) -> None:
    error = {"error": {"code": "InvalidPropertyValue", "message": f"This size is {reason}."}}
    failed = a_cluster(state=state, vm_size=size, errors=(cluster.error_text(error),))
    with pytest.raises(BackendError, match=f"This size is {reason}") as raised:
        cluster.wait_until_ready(failed, config_of(), lambda: failed)
    assert type(raised.value) is kind
    assert "cluster delete" in raised.value.hint


def test_a_creation_that_is_refused_at_once_would_be_refused_again() -> None:
    refusal = RuntimeError("Response Code: 400 Content: Specified VM size is not supported")
    with pytest.raises(NodesRefused, match="HTTP 400"):
        ensure(Creations(refusal))


def test_a_creation_above_the_quota_may_succeed_later() -> None:
    refusal = RuntimeError("Response Code: 400 Content: {'code': 'ClusterCoreQuotaReached'}")
    with pytest.raises(BackendError, match="HTTP 400") as raised:
        ensure(Creations(refusal))
    assert not isinstance(raised.value, NodesRefused)
    assert "ask for more cores" in raised.value.hint


def test_the_network_of_a_cluster_is_compared_and_shown() -> None:
    config = config_of(f"backend.subnet={SUBNET}", "backend.public_ip=false")
    private = a_cluster(subnet=SUBNET.replace("training", "Training"), has_public_ip=False)
    assert not list(cluster.differences(private, config))
    said = ", in subnet training of network office, without public addresses"
    assert config.nodes == f"0 to 1 dedicated nodes of STANDARD_D2DS_V4{said}"
    shown = list(cluster.show(private, config))
    assert f"nodes: STANDARD_D2DS_V4, dedicated{said.replace('training', 'Training')}" in shown
    assert "nodes: STANDARD_D2DS_V4, dedicated" in list(cluster.show(a_cluster(), config))


def test_a_cluster_is_described_as_azure_resource_manager_answers() -> None:
    status = {"currentNodeCount": 1, "nodeStateCounts": {"preemptedNodeCount": 2, "idleNodeCount": 1}}
    nodes = {
        "vmSize": "STANDARD_D2DS_V4",
        "vmPriority": "Dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT2M"},
        "subnet": {"id": SUBNET},
        "enableNodePublicIp": False,
        **status,
    }
    errors = [{"error": {"code": "Bad", "message": "no such size"}}]
    compute = {"computeType": "AmlCompute", "provisioningState": "Failed", "provisioningErrors": errors}
    read = cluster.from_arm({"name": "traincluster", "properties": {**compute, "properties": nodes}})
    expected = a_cluster(state="Failed", errors=("Bad no such size",), subnet=SUBNET, has_public_ip=False)
    assert dataclasses.replace(read, status=expected.status) == expected
    assert (read.count("preempted"), read.count("idle", "running")) == (2, 1)


def test_a_cluster_of_which_the_service_says_nothing_yet_is_described() -> None:
    compute = {"computeType": "AmlCompute", "provisioningState": "Creating", "properties": None}
    described = cluster.from_arm({"name": "traincluster", "properties": compute})
    expected = cluster.Cluster("traincluster", "AmlCompute", "Creating")
    assert described == expected
    assert described.count("preempted") == 0
