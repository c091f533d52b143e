"""Opens the workspace and sends requests to it.

The SDK's objects drop some of what the service says: a cluster's node counts and errors, a run's error and
warnings. Such answers are read with the same login.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import checks, login
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.checks import WorkspaceName

ARM = "https://management.azure.com"
SCOPE = f"{ARM}/.default"
API_VERSION = "2023-04-01"
"""Version of Azure Resource Manager's API.

The SDK chooses its own for the requests that it sends.
"""
TIMEOUTS = {"connection_timeout": 20, "read_timeout": 60}
"""Seconds until the SDK repeats an unanswered request.

Its own limit is 300.
"""


@dataclasses.dataclass(frozen=True)
class Workspace:
    """An open workspace: client, login and MLflow server's address."""

    name: WorkspaceName
    client: Any
    credential: Any
    pipeline: Any
    location: str = ""
    mlflow: str = ""
    has_registry: bool = True

    @property
    def path(self) -> str:
        """The workspace's resource id."""
        group = f"/subscriptions/{self.name.subscription_id}/resourceGroups/{self.name.resource_group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.name.name}"

    def arm(self, method: str, path: str = "", body: Any = None) -> Any:
        """Return Azure Resource Manager's answer.

        `path` is a part of the workspace, such as "/computes/NAME". Call it, and the two below, within
        `call`.
        """
        return self._send(method, f"{ARM}{self.path}{path}?api-version={API_VERSION}", body)

    def history(self, path: str) -> Any:
        """Return the run history's answer."""
        host = self.mlflow.partition("/mlflow/")[0]
        return self._send("GET", f"{host}/history/v1.0{self.path}/{path}")

    def metrics(self, path: str) -> Any:
        """Return the answer of the workspace's MLflow server."""
        return self._send("GET", f"{self.mlflow}/api/2.0/mlflow/{path}")

    def _send(self, method: str, url: str, body: Any = None) -> Any:
        from azure.core.rest import HttpRequest

        answer = self.pipeline.send_request(HttpRequest(method, url, json=body), **TIMEOUTS)
        answer.raise_for_status()
        return answer.json()


@functools.cache
def open_workspace(name: WorkspaceName) -> Workspace:
    """Log in and return the workspace, once per process.

    Raises BackendError or ConfigurationError.
    """

    def get_workspace(credentials: checks.Credentials) -> tuple[Workspace, bool]:
        _silence_sdk()
        credential = _login(credentials)
        workspace = Workspace(name, _client(name, credential), credential, _pipeline(credential))
        body = workspace.arm("GET")
        return _described(workspace, body), bool(body["properties"].get("v1LegacyMode"))

    workspace, is_legacy = login.open_workspace(Sdk.v2, name, get_workspace)
    if is_legacy:
        message = f"the workspace {name.name} refuses SDK v2, because its v1_legacy_mode is true"
        hint = "set backend.sdk=v1, or ask the workspace's owner to set v1_legacy_mode to false"
        raise BackendError(message, hint)
    return workspace


def _described(workspace: Workspace, body: dict[str, Any]) -> Workspace:
    """Return the workspace with the service's description.

    Raises ValueError if something is missing.
    """
    properties = body.get("properties") or {}
    location, mlflow = body.get("location"), properties.get("mlFlowTrackingUri")
    if not location or not mlflow:
        missing = "mlFlowTrackingUri" if location else "location"
        raise ValueError(f"the service's answer has no {missing}")
    address = mlflow.partition("?")[0].replace("azureml://", "https://", 1)
    has_registry = bool(properties.get("containerRegistry"))
    return dataclasses.replace(workspace, location=location, mlflow=address, has_registry=has_registry)


def client_without_retries(workspace: Workspace) -> Any:
    """Return a client that never repeats a request."""
    return _client(workspace.name, workspace.credential, retry_total=0)


def _client(name: WorkspaceName, credential: Any, **options: Any) -> Any:
    from azure.ai.ml import MLClient
    from azure.ai.ml.operations import _job_operations

    # The SDK would send the address of a git repository around the current folder. The address may contain
    # a password, and the code does not come from that repository.
    _job_operations.get_git_properties = dict
    logging.getLogger("azure.ai.ml").setLevel(logging.CRITICAL)  # its import has set another level
    return MLClient(
        credential,
        name.subscription_id,
        name.resource_group,
        name.name,
        show_progress=False,
        enable_telemetry=False,
        **TIMEOUTS,
        **options,
    )


def _pipeline(credential: Any) -> Any:
    from azure.core import PipelineClient
    from azure.core.pipeline import policies

    return PipelineClient(
        ARM,
        policies=[
            policies.RequestIdPolicy(),
            policies.UserAgentPolicy("mnist-cnn"),
            policies.RetryPolicy(),
            policies.BearerTokenCredentialPolicy(credential, SCOPE),
        ],
    )


def _silence_sdk() -> None:
    """Keep the SDK's warnings and progress off the terminal."""
    for name in ("azure", "msrest", "msal", "urllib3", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _login(credentials: checks.Credentials) -> Any:
    from azure import identity

    if credentials is checks.Credentials.service_principal:
        return identity.ClientSecretCredential(*checks.principal())
    if credentials is checks.Credentials.azure_cli:
        return login.AzureCliLogin()
    return identity.InteractiveBrowserCredential(tenant_id=checks.tenant())
