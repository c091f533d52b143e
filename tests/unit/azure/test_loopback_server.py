"""What the loopback service answers and refuses, without a network, a blob store or a node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from helpers.loopback_calls import API, COMPUTE, EXPERIMENT, MANAGEMENT, SNAPSHOTS, SUBMIT, tree
from loopback import Fault
from loopback.faults import read_faults

if TYPE_CHECKING:
    from helpers.loopback_server import Service

SNAPSHOT = "00000000-0000-0000-0000-000000000001"


def cluster(vm_size: str = "Standard_D2_v2", nodes: int = 2, idle: str = "PT120S") -> dict[str, Any]:
    scale = {"minNodeCount": 0, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": idle}
    settings = {"vmSize": vm_size, "vmPriority": "dedicated", "scaleSettings": scale}
    return {"location": "westeurope", "properties": {"computeType": "AmlCompute", "properties": settings}}


# -- the check against the published documents -------------------------------------------------------------


def test_a_request_that_is_not_implemented_fails_the_check(service: Service) -> None:
    assert service("GET", f"{API}/history/v9.0/<WS>/nothing")[0] == 501
    with pytest.raises(AssertionError, match=r"not implemented: GET .*/history/v9\.0/.*/nothing"):
        service.server.recording.check()
    assert "501" in service.server.recording.table()
    service.server.recording.clear()


def test_a_request_that_is_not_as_published_fails_the_check(service: Service) -> None:
    assert service("PUT", COMPUTE.format("good"), cluster() | {"colour": "red"})[0] == 201
    with pytest.raises(AssertionError, match=r"compute\.put request\.colour: unknown"):
        service.server.recording.check()
    service.server.recording.clear()


# -- what is refused, with Azure's status and shape of error ------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "client", "status", "error"),
    [("wrong", None, 401, "AADSTS7000215"), (None, "wrong", 400, "AADSTS700016"), (None, None, 200, "")],
)
def test_a_login_needs_the_right_client_and_secret(
    service: Service, secret: str | None, client: str | None, status: int, error: str
) -> None:
    have = service.handlers.tenancy
    form = f"client_id={client or have.client}&client_secret={secret or have.client_secret}"
    url = f"https://login.microsoftonline.com/{have.tenant}/oauth2/v2.0/token"
    answered, answer = service("POST", url, form)
    assert (answered, answer.get("error_description", "").partition(":")[0]) == (status, error)


def test_a_token_that_the_service_has_not_signed_is_refused(service: Service) -> None:
    status, answer = service("GET", EXPERIMENT, Authorization="Bearer a.b.c")
    assert (status, answer["error"]["innerError"]["code"]) == (401, "InvalidAuthenticationToken")


def test_another_workspace_is_not_found(service: Service) -> None:
    path = service.handlers.tenancy.workspace_path.replace("/loopback-workspace", "/another")
    status, answer = service("GET", f"{MANAGEMENT}{path}?api-version=2022-05-01")
    assert (status, answer["error"]["code"]) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("9lives", cluster()),
        ("x", cluster()),
        ("much-too-long-a-name", cluster()),
        ("ends-with-1", cluster()),
        ("good", cluster(nodes=101)),
        ("good", cluster(idle="soon")),
        ("broken", cluster()),
    ],
)
def test_a_cluster_that_is_not_valid_is_refused(service: Service, name: str, body: Any) -> None:
    status, answer = service("PUT", COMPUTE.format(name), body)
    assert (status, answer["error"]["code"]) == (400, "BadArgument")


@pytest.mark.parametrize(
    ("size", "code"), [("Standard_X99", "InvalidPropertyValue"), ("standard_d3_v2", "BadRequest")]
)
def test_a_cluster_can_be_accepted_and_fail_later(service: Service, size: str, code: str) -> None:
    service.handlers.clusters.behave(quota_cores=2)
    status, answer = service("PUT", COMPUTE.format("new"), cluster(size))
    assert (status, answer["properties"]["provisioningState"]) == (201, "Creating")
    operation = service.handlers.clusters.operations()[-1]
    status, answer = service("GET", f"{MANAGEMENT}{operation}?api-version=2020-02-02")
    assert (status, answer["status"], answer["error"]["code"]) == (200, "Failed", code)
    properties = service("GET", COMPUTE.format("new"))[1]["properties"]
    assert properties["provisioningState"] == "Failed"
    assert properties["provisioningErrors"][0]["error"]["code"] == code


def test_a_slow_cluster_is_created_after_a_number_of_polls(service: Service) -> None:
    service.handlers.clusters.behave(polls_to_create=3)
    assert service("PUT", COMPUTE.format("slow"), cluster())[0] == 201
    operation = f"{MANAGEMENT}{service.handlers.clusters.operations()[0]}?api-version=2020-02-02"
    states = [service("GET", operation)[1]["status"] for _ in range(4)]
    assert states == ["InProgress", "InProgress", "Succeeded", "Succeeded"]


def test_deleting_a_missing_cluster_succeeds(service: Service) -> None:
    url = COMPUTE.format("nowhere") + "&underlyingResourceAction=delete"
    assert service("DELETE", url) == (204, None)


@pytest.mark.parametrize(
    ("run_id", "target", "nodes", "code"),
    [
        ("run", "nowhere", 1, "UserError"),
        ("run", "leaving", 1, "ComputeTargetNotReady"),
        ("run", "machine", 1, "UserError"),
        ("run", "small", 5, "NodeCountExceedsMaximum"),
        ("run", "small", 1, "UserError"),  # because the snapshot doesn't exist
        ("run", "large", 1, "JobNodeCountExceedsCoreQuota"),
        ("a" * 300, "small", 1, "ValidationError"),
    ],
)
def test_a_run_that_is_not_valid_is_refused(
    service: Service, run_id: str, target: str, nodes: int, code: str
) -> None:
    service.handlers.clusters.add("large", vmSize="Standard_D3_v2")
    service.handlers.clusters.behave(quota_cores=2)
    configuration = {"script": "train.py", "target": target, "nodeCount": nodes}
    body = {"Configuration": configuration, "SnapshotId": SNAPSHOT}
    status, answer = service("POST", SUBMIT.format(run_id), body)
    assert (status, answer["error"]["innerError"]["code"]) == (400, code)
    assert not service.started


def test_a_submission_that_is_sent_twice_starts_one_run(service: Service) -> None:
    snapshot = {"ParentSnapshotId": None, "DirTreeNode": tree(), "FileRevisionList": None}
    assert service("POST", f"{SNAPSHOTS}/{SNAPSHOT}", snapshot)[0] == 200
    body = {"Configuration": {"script": "train.py", "target": "small"}, "SnapshotId": SNAPSHOT}
    for _ in "12":
        assert service("POST", SUBMIT.format("once"), body) == (200, {"runId": "once"})
    assert [run.run_id for run in service.started] == ["once"]


def test_a_cancelled_run_can_only_end(service: Service) -> None:
    runs = service.handlers.runs
    run = runs.create("run", "toy")
    runs.cancel("run")
    for status in ("Running", "Finalizing"):
        runs.advance(run, status)
        assert run.status == "CancelRequested"
    runs.advance(run, "Canceled")
    runs.advance(run, "Completed")
    assert run.status == "Canceled"


def test_properties_of_a_run_are_immutable_and_tags_limited(service: Service) -> None:
    run = f"{EXPERIMENT}/runs/tagged"
    assert service("PATCH", run, {"properties": {"a": "1"}, "tags": {"t": "1"}})[0] == 200
    assert service("PATCH", run, {"properties": {"a": "1"}, "tags": {"t": "2"}})[0] == 200
    assert service("PATCH", run, {"properties": {"a": "2"}})[0] == 400
    assert service("PATCH", run, {"tags": {"t": "x" * 1001}})[0] == 400
    assert service("PATCH", run, {"tags": {str(n): "" for n in range(51)}})[0] == 400


def test_a_model_without_an_asset_is_refused(service: Service) -> None:
    model = {"name": "m", "url": "aml://asset/none", "mimeType": "application/json"}
    url = "https://westeurope.modelmanagement.azureml.net/modelmanagement/v1.0/<WS>/models"
    status, answer = service("POST", url, model)
    assert (status, answer["statusCode"], answer["code"]) == (400, 400, "BadRequest")


# -- faults ------------------------------------------------------------------------------------------------


def test_a_fault_is_injected_from_an_occurrence_for_some_times(service: Service) -> None:
    service.server.faults.add(Fault("GET", "experiments/toy$", occurrence=2, status=503, times=2))
    service("POST", EXPERIMENT)
    assert [service("GET", EXPERIMENT)[0] for _ in range(4)] == [200, 503, 503, 200]


def test_a_fault_without_a_limit_stays_until_it_is_cleared(service: Service) -> None:
    service.server.faults.add(Fault("POST", status=500, times=0))
    assert [service("POST", EXPERIMENT)[0] for _ in range(3)] == [500] * 3
    service.server.faults.clear()
    assert service("POST", EXPERIMENT)[0] == 200


def test_an_error_can_echo_the_request(service: Service) -> None:
    service.server.faults.add(Fault(echoes=True))
    _, answer = service("POST", EXPERIMENT, {"key": "value"}, Agent="secret")
    assert "Agent: secret" in answer["error"]["message"]
    assert '{"key": "value"}' in answer["error"]["message"]


def test_faults_are_read_from_json() -> None:
    text = json.dumps([{"path": "toy$", "status": 429, "headers": [["Retry-After", "1"]]}])
    assert read_faults(text) == [Fault(path="toy$", status=429, headers=(("Retry-After", "1"),))]
    with pytest.raises(ValueError, match="kind"):
        Fault(kind="explode")
