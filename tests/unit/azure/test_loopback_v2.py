"""What the loopback service answers SDK v2, without a network, a blob store or a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.loopback_calls import MANAGEMENT, request
from loopback.blobs import BlobStore
from loopback.faults import Faults
from loopback.handlers import Handlers
from loopback.recording import Recording
from loopback.server import Server
from loopback.tenancy import Tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback.messages import Response

JOB = f"{MANAGEMENT}/<WS>/jobs/{{}}?api-version=2024-01-01-preview"
ENVIRONMENT = f"{MANAGEMENT}/<WS>/environments/toy/versions/1?api-version=2023-04-01-preview"


class Service:
    """A server whose jobs are never executed and whose blobs are never read."""

    def __init__(self, folder: Path) -> None:
        tenancy = Tenancy()
        self.handlers = Handlers(tenancy, BlobStore(tenancy, port=0))
        self.started: list[str] = []
        recording = Recording(folder / "requests.jsonl")
        start = self.started.append
        self.server = Server(self.handlers, lambda run: start(run.run_id), Faults(), recording)
        self.handlers.clusters.add("small")

    def __call__(self, method: str, url: str, body: Any = None) -> Response:
        response, _ = self.server.answer(request(self.handlers, method, url, body))
        assert response is not None
        return response


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.server.recording.check()


def job(service: Service, **changes: Any) -> dict[str, Any]:
    """Return the body of a job on a cluster that exists, in an environment that exists."""
    assert service("PUT", ENVIRONMENT, {"properties": {"image": "x/y:1"}}).status == 201
    place = service.handlers.tenancy.workspace_path
    ids = {"computeId": f"{place}/computes/small", "environmentId": f"{place}/environments/toy/versions/1"}
    return {"properties": {"jobType": "Command", "command": "echo", "inputs": {}, **ids, **changes}}


def inner_codes(answer: Any) -> list[str]:
    """Return the inner codes of an error, from the outside in."""
    values = {row["type"]: row["info"]["value"] for row in answer["error"]["additionalInfo"]}
    code, codes = values["InnerError"], []
    while code:
        codes.append(code["code"])
        code = code["innerError"]
    return codes


def test_an_answer_that_is_not_as_published_fails_the_check(service: Service) -> None:
    body = job(service)
    assert service("PUT", JOB.format("one"), body).status == 201
    service.handlers.runs["one"].document["properties"] = {"count": 1}
    service("GET", JOB.format("one"))
    with pytest.raises(AssertionError, match=r"v2\.job\.get response\.properties\.properties\[count\]"):
        service.server.recording.check()
    service.server.recording.clear()


def test_a_request_that_is_not_as_published_fails_the_check(service: Service) -> None:
    service("PUT", JOB.format("one"), job(service, colour="red"))
    with pytest.raises(AssertionError, match=r"v2\.job\.put request\.properties\.colour: unknown"):
        service.server.recording.check()
    service.server.recording.clear()


def test_a_job_is_starting_and_gets_its_defaults_and_its_own_output(service: Service) -> None:
    response = service("PUT", JOB.format("one"), job(service))
    properties = response.json()["properties"]
    assert properties["status"] == "Starting"
    assert (properties["resources"]["instanceCount"], properties["resources"]["shmSize"]) == (1, "2g")
    assert properties["outputs"]["default"]["uri"].endswith("/ExperimentRun/dcid.one")
    assert "/jobs/one?api-version=2024-01-01-preview" in dict(response.headers)["Location"]
    assert service.started == ["one"]


def test_a_jobs_environment_has_its_full_id_when_the_job_is_read(service: Service) -> None:
    made = service("PUT", JOB.format("one"), job(service, environmentId="azureml:toy:1")).json()
    seen = service("GET", JOB.format("one")).json()
    assert made["properties"]["environmentId"] == "azureml:toy:1"
    assert seen["properties"]["environmentId"].endswith("/environments/toy/versions/1")
    assert service("PUT", JOB.format("one"), job(service, environmentId="azureml:toy:1")).status == 201


def test_a_second_put_starts_nothing_and_changes_tags_only(service: Service) -> None:
    service("PUT", JOB.format("one"), job(service))
    again = service("PUT", JOB.format("one"), job(service, tags={"a": "b"}))
    assert (again.status, again.json()["properties"]["tags"]) == (201, {"a": "b"})
    refused = service("PUT", JOB.format("one"), job(service, command="other"))
    assert (refused.status, inner_codes(refused.json())) == (400, ["Immutable", "JobPropertyImmutable"])
    assert service.started == ["one"]


def test_what_is_missing_is_refused_in_the_recorded_form(service: Service) -> None:
    missing = service("GET", JOB.format("nothing"))
    assert (missing.status, inner_codes(missing.json())) == (404, ["NotFound", "JobNotFound"])
    assert missing.json()["error"]["code"] == "UserError"
    assert missing.json()["error"]["message"] == "Job nothing not found."
    assert dict(missing.headers)["x-ms-response-type"] == "error"
    place = service.handlers.tenancy.workspace_path
    for change in ({"computeId": f"{place}/computes/other"}, {"codeId": f"{place}/codes/x/versions/1"}):
        refused = service("PUT", JOB.format("one"), job(service, **change))
        assert (refused.status, inner_codes(refused.json())) == (404, ["NotFoundError"])
    assert not service.started


@pytest.mark.parametrize(
    ("nodes", "quota", "code"), [(5, None, "BadArgument"), (2, 3, "JobNodeCountExceedsCoreQuota")]
)
def test_a_job_that_needs_more_nodes_than_there_can_be_is_refused(
    service: Service, nodes: int, quota: int | None, code: str
) -> None:
    service.handlers.clusters.behave(quota_cores=quota)
    refused = service("PUT", JOB.format("one"), job(service, resources={"instanceCount": nodes}))
    assert (refused.status, inner_codes(refused.json())) == (400, [code])
    assert not service.started


def test_several_nodes_need_a_distribution_that_the_service_has(service: Service) -> None:
    sent = job(service, resources={"instanceCount": 2}, distribution={"distributionType": "Mpi"})
    assert service("PUT", JOB.format("one"), sent).status == 501
    assert not service.started


def test_a_cancellation_is_accepted_with_null_and_ends_without_a_body(service: Service) -> None:
    service("PUT", JOB.format("one"), job(service))
    accepted = service("POST", JOB.format("one/cancel"))
    assert (accepted.status, accepted.body) == (202, b"null")
    assert "Retry-After" not in dict(accepted.headers)
    url = dict(accepted.headers)["Location"]
    assert (service("GET", url).status, service("GET", url).json()) == (202, {})
    service.handlers.runs.advance(service.handlers.runs["one"], "Canceled")
    assert (service("GET", url).status, service("GET", url).body) == (200, b"")


def test_the_address_of_code_cannot_be_changed(service: Service) -> None:
    url = f"{MANAGEMENT}/<WS>/codes/c/versions/1?api-version=2023-04-01"
    statuses = [service("PUT", url, {"properties": {"codeUri": f"https://{x}"}}).status for x in "aab"]
    assert statuses == [201, 201, 400]


def test_a_model_moves_and_keeps_its_version(service: Service) -> None:
    url = f"{MANAGEMENT}/<WS>/models/m/versions/3?api-version=2023-08-01-preview"
    sent = {"modelUri": "azureml://jobs/one/outputs/artifacts/paths/outputs/", "modelType": "custom_model"}
    answer = service("PUT", url, {"properties": sent}).json()
    assert "/paths/ServiceReplicated/" in answer["properties"]["modelUri"]
    assert [model["id"] for model in service.handlers.models.all()] == ["m:3"]
    assert service("GET", url.replace("/versions/3", "")).json()["properties"]["nextVersion"] == "4"
    assert [service("DELETE", url).status for _ in "12"] == [200, 204]


def test_a_datastore_without_a_key_has_no_secrets(service: Service) -> None:
    url = f"{MANAGEMENT}/<WS>/datastores/workspaceblobstore{{}}?api-version=2024-10-01-preview"
    assert service("POST", url.format("/listSecrets"), {}).json()["secretsType"] == "AccountKey"
    assert (
        service("POST", url.format("/listSecrets"), {"expirableSecret": True}).json()["secretsType"] == "Sas"
    )
    service.handlers.workspace.has_keys = False
    assert service("GET", url.format("")).json()["properties"]["credentials"] == {"credentialsType": "None"}
    assert service("POST", url.format("/listSecrets")).status == 400


@pytest.mark.parametrize("lacking", ["has_keys", "takes_keys"])
@pytest.mark.parametrize(
    ("query", "headers"), [("", {"Authorization": "SharedKey a:b"}), ("?sr=c&sig=x", {"Authorization": ""})]
)
def test_an_account_may_refuse_its_keys_and_what_they_sign(
    service: Service, lacking: str, query: str, headers: dict[str, str]
) -> None:
    setattr(service.handlers.workspace, lacking, False)
    blob = f"https://{service.handlers.tenancy.blob_host}/x/y{query}"
    refused, _ = service.server.answer(request(service.handlers, "GET", blob, **headers))
    assert refused is not None
    assert (refused.status, b"KeyBasedAuthenticationNotPermitted" in refused.body) == (403, True)


def test_blobs_take_only_tokens_for_storage(service: Service) -> None:
    sent = request(service.handlers, "GET", f"https://{service.handlers.tenancy.blob_host}/x/y")
    refused, _ = service.server.answer(sent)
    assert refused is not None
    assert (refused.status, b"InvalidAuthenticationInfo" in refused.body) == (401, True)


def test_a_token_is_for_the_audience_that_was_asked_for(service: Service) -> None:
    have = service.handlers.tenancy
    form = (
        f"client_id={have.client}&client_secret={have.client_secret}&scope=https://storage.azure.com/.default"
    )
    url = f"https://login.microsoftonline.com/{have.tenant}/oauth2/v2.0/token"
    token = service("POST", url, form).json()["access_token"]
    blob = f"https://{have.blob_host}/x/y"
    sent = request(service.handlers, "GET", blob, Authorization=f"Bearer {token}")
    assert "sig" in service.handlers.v2.blob_access.admit(sent).query
