"""How the workspace is opened. The SDK's client is a stand-in."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.v2 import sdk
from mnist_cnn.backends.remote.service import ServiceError

MLFLOW = "azureml://westeurope.api.azureml.ms/mlflow/v1.0/ws?"
WHOLE = {"location": "westeurope", "properties": {"mlFlowTrackingUri": MLFLOW}}


def opened(patch: pytest.MonkeyPatch, answer: dict[str, Any]) -> sdk.Workspace:
    """Open a workspace of which the service says this."""
    patch.setattr(checks, "check_sdk", lambda _: None)
    patch.setattr(checks, "credentials", lambda: checks.Credentials.azure_cli)
    for name in ("_login", "_client", "_pipeline"):
        patch.setattr(sdk, name, lambda *_: None)
    patch.setattr(sdk.Workspace, "arm", lambda *_: answer)
    sdk.open_workspace.cache_clear()
    try:
        return sdk.open_workspace(checks.WorkspaceName("s", "g", "w"))
    finally:
        sdk.open_workspace.cache_clear()


def test_the_addresses_of_a_workspace_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(monkeypatch, WHOLE)
    assert (found.location, found.has_registry) == ("westeurope", False)
    assert found.mlflow == "https://westeurope.api.azureml.ms/mlflow/v1.0/ws"


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ({**WHOLE, "properties": {}}, "mlFlowTrackingUri"),
        ({**WHOLE, "properties": {"mlFlowTrackingUri": None}}, "mlFlowTrackingUri"),
        ({"properties": {"mlFlowTrackingUri": MLFLOW}}, "location"),
        ({**WHOLE, "properties": None}, "mlFlowTrackingUri"),
    ],
)
def test_a_workspace_that_is_not_described_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ServiceError) as raised:
        opened(monkeypatch, answer)
    expected = f"cannot open the workspace w as Azure CLI: the service's answer has no {missing}"
    assert raised.value.message == expected
