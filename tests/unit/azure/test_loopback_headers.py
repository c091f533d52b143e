"""The loopback service's headers, logins and workspace are the recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from helpers.loopback_calls import API, COMPUTE, EXPERIMENT, MANAGEMENT, request
from loopback.blobs import BlobStore
from loopback.faults import Faults
from loopback.handlers import Handlers
from loopback.recording import Recording
from loopback.server import Server
from loopback.tenancy import Tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loopback.messages import Response

Ask = Callable[..., "Response"]
OF_ALL = {"x-ms-response-type", "x-aml-cluster", "x-request-time"}
OF_RESOURCE_MANAGER = {"x-ms-correlation-request-id", "x-ms-routing-request-id", "Cache-Control", "Expires"}


@pytest.fixture
def handlers() -> Handlers:
    tenancy = Tenancy()
    return Handlers(tenancy, BlobStore(tenancy, port=0))


@pytest.fixture
def ask(handlers: Handlers, tmp_path: Path) -> Iterator[Ask]:
    """Return a function that sends a request and returns the whole response."""
    server = Server(handlers, lambda _run: None, Faults(), Recording(tmp_path / "requests.jsonl"))

    def send(method: str, url: str, body: str | None = None, **headers: str) -> Response:
        response, _ = server.answer(request(handlers, method, url, body, **headers))
        assert response is not None
        return response

    yield send
    server.recording.check()


@pytest.mark.parametrize(
    ("method", "url", "kind"),
    [("GET", COMPUTE.format("none"), "reads"), ("DELETE", COMPUTE.format("none"), "deletes")],
)
def test_resource_manager_counts_requests(ask: Ask, method: str, url: str, kind: str) -> None:
    url += "&underlyingResourceAction=delete" if method == "DELETE" else ""
    response = ask(method, url)
    headers = dict(response.headers)
    assert set(headers) >= OF_ALL | OF_RESOURCE_MANAGER
    assert f"x-ms-ratelimit-remaining-subscription-{kind}" in headers
    assert headers["x-ms-response-type"] == ("error" if response.status >= 400 else "standard")
    assert ("Server-Timing" in headers) == (response.status < 400)
    assert "Retry-After" not in headers


def test_the_data_plane_has_three_headers_of_its_own(ask: Ask) -> None:
    headers = dict(ask("POST", EXPERIMENT).headers)
    assert set(headers) >= OF_ALL
    assert not OF_RESOURCE_MANAGER & set(headers)


@pytest.mark.parametrize(("claims", "seconds"), [("&claims=CP1", 86399), ("", 3599)])
def test_a_token_lasts_a_day_for_a_client_that_reacts_to_its_revocation(
    ask: Ask, handlers: Handlers, claims: str, seconds: int
) -> None:
    have = handlers.tenancy
    url = f"https://login.microsoftonline.com/{have.tenant}/oauth2/v2.0/token"
    form = f"client_id={have.client}&client_secret={have.client_secret}{claims}"
    response = ask("POST", url, form, **{"client-request-id": "a number"})
    assert response.json()["expires_in"] == seconds
    assert response.json().get("refresh_in") == (seconds // 2 if claims else None)
    headers = dict(response.headers)
    assert headers["Cache-Control"] == "no-store, no-cache"
    assert headers["client-request-id"] == "a number"


def test_a_refused_login_has_its_number_twice(ask: Ask, handlers: Handlers) -> None:
    url = f"https://login.microsoftonline.com/{handlers.tenancy.tenant}/oauth2/v2.0/token"
    answer = ask("POST", url, "client_id=x").json()
    assert answer["error_codes"] == [700016]
    assert answer["error_description"].startswith("AADSTS700016: ")


def test_a_workspace_has_the_recorded_members(ask: Ask, handlers: Handlers) -> None:
    """It has no registry until the first image is built."""
    workspace = ask("GET", f"{MANAGEMENT}/<WS>?api-version=2022-05-01").json()
    assert {"etag", "systemData", "kind", "identity", "sku"} <= set(workspace)
    assert workspace["etag"] is None
    properties = workspace["properties"]
    assert {"notebookInfo", "imageBuildCompute", "v1LegacyMode", "privateLinkCount"} <= set(properties)
    assert properties["containerRegistry"] is None
    handlers.workspace.has_registry = True
    workspace = ask("GET", f"{MANAGEMENT}/<WS>?api-version=2022-05-01").json()
    assert workspace["properties"]["containerRegistry"].endswith("/registries/loopback")


def test_a_datastore_may_have_no_key(ask: Ask, handlers: Handlers) -> None:
    handlers.workspace.has_keys = False
    section = ask("GET", f"{API}/datastore/v1.0/<WS>/default").json()["azureStorageSection"]
    assert (section["credentialType"], section["accountKey"], section["credential"]) == ("None", None, None)
