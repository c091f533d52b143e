"""Datastores as Resource Manager describes them, with and without their secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import v2_arm as arm
from .artifacts import CONTAINER as ARTIFACTS_CONTAINER
from .messages import Json, Request, Response, answer
from .refusals import now

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .routes import Route
    from .workspace import Workspace

DATASTORES = "<WS>/datastores"
ARTIFACT_STORE = "workspaceartifactstore"


class Datastores:
    """The default datastore, and the one that holds the files of runs.

    A workspace whose `has_keys` is false returns no secrets.
    """

    def __init__(self, workspace: Workspace, blobs: BlobStore) -> None:
        self.workspace = workspace
        self.tenancy = workspace.tenancy
        self.blobs = blobs
        self._created = now()

    def routes(self) -> list[Route]:
        one = f"{DATASTORES}/{{datastore}}"
        return [
            arm.route("GET", DATASTORES, self.list),
            arm.route("GET", one, self.get),
            arm.route("POST", f"{one}/listSecrets", self.secrets),
        ]

    def container(self, name: str) -> str | None:
        """Return the container of a datastore, or None if there is no such datastore."""
        known = {self.tenancy.datastore: self.tenancy.container, ARTIFACT_STORE: ARTIFACTS_CONTAINER}
        return known.get(name.lower())

    def list(self, request: Request) -> Response:
        names = [self.tenancy.datastore, ARTIFACT_STORE]
        wanted = names[:1] if request.query.get("isDefault") == "true" else names
        return answer({"value": [self._document(name) for name in wanted]})

    def get(self, request: Request) -> Response:
        self._require(request)
        return answer(self._document(request.names["datastore"].lower()))

    def secrets(self, request: Request) -> Response:
        """Return the account's key, or a signature for an hour if the client asks for one that expires."""
        container = self._require(request)
        if not self.workspace.has_keys:
            raise arm.Inner(400, "The datastore has no credentials.", "BadArgument")
        if request.json().get("expirableSecret"):
            _, _, token = self.blobs.signed_url(container, "", "racwdl").partition("?")
            return answer({"secretsType": "Sas", "sasToken": token})
        return answer({"secretsType": "AccountKey", "key": self.tenancy.account_key})

    def _require(self, request: Request) -> str:
        container = self.container(request.names["datastore"])
        if container is None:
            text = f"Could not find datastore: {request.names['datastore']}"
            raise arm.Inner(404, text, "NotFoundError")
        return container

    def _document(self, name: str) -> Json:
        have = self.tenancy
        properties = {
            "description": None,
            "tags": None,
            "properties": None,
            "isDefault": name == have.datastore,
            "credentials": {"credentialsType": "AccountKey" if self.workspace.has_keys else "None"},
            "datastoreType": "AzureBlob",
            "accountName": have.account,
            "containerName": self.container(name),
            "endpoint": "core.windows.net",
            "protocol": "https",
            "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity",
        }
        return {
            "id": f"{have.workspace_path}/datastores/{name}",
            "name": name,
            "type": "Microsoft.MachineLearningServices/workspaces/datastores",
            "properties": properties,
            "systemData": arm.system_data(self._created),
        }
