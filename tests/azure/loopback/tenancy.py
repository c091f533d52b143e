"""The names and secrets of the service's one subscription, workspace and storage account.

Each start makes new ids, because the client's caches are keyed by the workspace's id.
"""

from __future__ import annotations

import base64
import dataclasses
import secrets
import uuid

LOGIN = "login.microsoftonline.com"
MANAGEMENT = "management.azure.com"
LOCATION = "westeurope"
API = f"{LOCATION}.api.azureml.ms"
MODELS = f"{LOCATION}.modelmanagement.azureml.net"
BLOB_SUFFIX = ".blob.core.windows.net"


def _id() -> str:
    return str(uuid.uuid4())


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(64)).decode()


@dataclasses.dataclass(frozen=True)
class Tenancy:
    """The names, and the secrets that give access."""

    subscription: str = dataclasses.field(default_factory=_id)
    group: str = "loopback"
    workspace: str = "loopback-workspace"
    workspace_id: str = dataclasses.field(default_factory=_id)
    tenant: str = dataclasses.field(default_factory=_id)
    client: str = dataclasses.field(default_factory=_id)
    client_secret: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(24))
    account: str = dataclasses.field(default_factory=lambda: f"loopback{secrets.token_hex(5)}")
    account_key: str = dataclasses.field(default_factory=_key)
    datastore: str = "workspaceblobstore"

    @property
    def container(self) -> str:
        """The container of the default datastore."""
        return f"azureml-blobstore-{self.workspace_id}"

    @property
    def workspace_path(self) -> str:
        """The workspace's full Resource Manager id."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def blob_host(self) -> str:
        return self.account + BLOB_SUFFIX
