"""The loopback service's answers about clusters are the recorded ones. Not on sockets: requests are called.

Sources: azure-ml-recorded, `compute.*`, from C22, C23, NHTTP and NPT.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from loopback.compute import Clusters
from loopback.messages import Json, Request
from loopback.refusals import Refusal
from loopback.tenancy import MANAGEMENT, Tenancy

if TYPE_CHECKING:
    from loopback.messages import Response

NODES = ("currentNodeCount", "targetNodeCount", "nodeStateCounts", "allocationState", "errors")
ALWAYS = {
    "osType",
    "remoteLoginPortPublicAccess",
    "virtualMachineImage",
    "isolatedNetwork",
    "enableNodePublicIp",
    "subnet",
}


@pytest.fixture
def clusters() -> Clusters:
    return Clusters(Tenancy(), threading.Condition(threading.RLock()))


def ask(clusters: Clusters, method: str, *, body: bytes = b"") -> Response:
    target = "/computes/cpu?api-version=2022-01-01-preview"
    request = Request(method, MANAGEMENT, target, {}, body, {"compute": "cpu"})
    act = {"GET": clusters.get, "PUT": clusters.put, "DELETE": clusters.delete}[method]
    return act(request)


def create(clusters: Clusters, size: str = "Standard_D2ds_v4", **settings: Any) -> Response:
    scale = {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1M40S"}
    properties = {"vmSize": size, "vmPriority": "dedicated", "scaleSettings": scale, **settings}
    body: Json = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": properties}}
    return ask(clusters, "PUT", body=json.dumps(body).encode())


def poll(clusters: Clusters) -> Response:
    path = clusters.operations()[-1]
    names = {"operation": path.rpartition("/")[2]}
    return clusters.operation(Request("GET", MANAGEMENT, path, {}, b"", names))


def nodes_of(response: Response) -> dict[str, Any]:
    settings = response.json()["properties"]["properties"]
    return {name: settings[name] for name in NODES}


def test_a_new_cluster_has_no_counts_and_no_time_to_come_back(clusters: Clusters) -> None:
    created = create(clusters, userAccountCredentials={"adminUserName": "me", "adminUserPassword": "secret"})
    assert created.status == 201
    properties = created.json()["properties"]
    assert properties["provisioningState"] == "Creating"
    assert nodes_of(created) == dict.fromkeys(NODES)
    assert not {"allocationStateTransitionTime", "userAccountCredentials"} & set(properties["properties"])
    assert "computeLocation" not in properties
    assert created.json()["tags"] is None
    headers = dict(created.headers)
    assert headers["Azure-AsyncOperation"].endswith("?api-version=2022-01-01-preview&service=new")
    assert not {"Location", "Retry-After"} & set(headers)


def test_an_operation_has_a_status_and_nothing_else(clusters: Clusters) -> None:
    clusters.behave(polls_to_create=2)
    create(clusters)
    assert poll(clusters).json() == {"status": "InProgress"}
    done = poll(clusters)
    assert done.json() == {"status": "Succeeded", "percentComplete": 100.0}
    assert "Retry-After" not in dict(done.headers)


def test_a_created_cluster_resizes_with_no_nodes_and_then_is_steady(clusters: Clusters) -> None:
    create(clusters, userAccountCredentials={"adminUserName": "me", "adminUserPassword": "secret"})
    poll(clusters)
    first = ask(clusters, "GET")
    assert first.json()["properties"]["provisioningState"] == "Succeeded"
    assert first.json()["tags"] == {}
    seen = nodes_of(first)
    assert (seen["allocationState"], seen["currentNodeCount"], seen["targetNodeCount"]) == ("Resizing", 0, 0)
    settings = ask(clusters, "GET").json()["properties"]["properties"]
    assert settings["allocationState"] == "Steady"
    assert set(settings) >= ALWAYS
    assert settings["vmSize"] == "STANDARD_D2DS_V4"
    assert settings["userAccountCredentials"] == {"adminUserName": "me", "adminUserPassword": None}
    assert settings["scaleSettings"]["nodeIdleTimeBeforeScaleDown"] == "PT1M40S"
    assert settings["errors"] is None


def test_a_subnet_is_a_resource_id(clusters: Clusters) -> None:
    networks = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks"
    with pytest.raises(Refusal, match="Invalid subnet"):
        create(clusters, subnet={"id": f"{networks}/office"})
    subnet = {"id": f"{networks}/office/subnets/training"}
    created = create(clusters, subnet=subnet)
    assert created.json()["properties"]["properties"]["subnet"] == subnet


def test_a_change_is_created_again(clusters: Clusters) -> None:
    create(clusters)
    poll(clusters)
    changed = create(clusters)
    assert changed.status == 201
    assert changed.json()["properties"]["provisioningState"] == "Creating"
    assert "/Microsoft.BatchAI/" in changed.json()["properties"]["resourceId"]
    assert nodes_of(changed) == dict.fromkeys(NODES)


def test_a_cluster_of_an_old_size_works_and_carries_a_warning(clusters: Clusters) -> None:
    create(clusters, "Standard_D2_v2")
    poll(clusters)
    document = ask(clusters, "GET").json()["properties"]
    assert document["provisioningState"] == "Succeeded"
    assert [entry["error"]["code"] for entry in document["properties"]["errors"]] == ["ClusterHasWarnings"]


def test_a_deletion_names_its_operation_alone(clusters: Clusters) -> None:
    clusters.add("cpu")
    deleted = ask(clusters, "DELETE")
    assert (deleted.status, deleted.body, [name for name, _ in deleted.headers]) == (
        202,
        b"",
        ["Azure-AsyncOperation"],
    )


@pytest.mark.parametrize(("quota", "state"), [(1, "Failed"), (2, "Succeeded")])
def test_creation_needs_the_quota_for_one_node(clusters: Clusters, quota: int, state: str) -> None:
    """Its four nodes would need eight cores."""
    clusters.behave(quota_cores=quota)
    create(clusters)
    answered = poll(clusters).json()
    assert answered["status"] == state
    if state == "Failed":
        assert answered["error"]["code"] == "BadRequest"
        assert "vCPU quota of 1 and cannot accomodate for at least 1" in answered["error"]["message"]


def test_a_second_node_above_the_quota_is_never_allocated(clusters: Clusters) -> None:
    clusters.behave(quota_cores=2)
    cluster = clusters.add("cpu")
    cluster.waiting.append("second")
    assert clusters.has_nodes_for(cluster, "second", 1)
    assert not clusters.has_nodes_for(cluster, "second", 2)
    cluster.busy.append("first")
    assert not clusters.has_nodes_for(cluster, "second", 1)
