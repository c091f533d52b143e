"""Code and environments, each by name and version; models are shared with SDK v1."""

from __future__ import annotations

import threading
import urllib.parse
import uuid
from typing import TYPE_CHECKING

from . import v2_arm as arm
from .messages import Json, Request, Response, answer
from .refusals import now

if TYPE_CHECKING:
    from pathlib import Path

    from .blobs import BlobStore
    from .models import Models
    from .routes import Route
    from .tenancy import Tenancy

KINDS = {"codes": "Code", "environments": "Environment"}


class Assets:
    """The stored documents of code and environments, by kind, name and version."""

    def __init__(self, tenancy: Tenancy, blobs: BlobStore) -> None:
        self.tenancy = tenancy
        self.blobs = blobs
        self._lock = threading.Lock()
        self._documents: dict[tuple[str, str, str], Json] = {}

    def routes(self) -> list[Route]:
        code, environment = (f"<WS>/{kind}/{{name}}/versions" for kind in KINDS)
        return [
            arm.route("GET", code, self.list_code),
            arm.route("GET", f"{code}/{{version}}", self.get_code),
            arm.route("PUT", f"{code}/{{version}}", self.put_code),
            arm.route("POST", f"{code}/{{version}}/startPendingUpload", self.start_upload),
            arm.route("GET", f"{environment}/{{version}}", self.get_environment),
            arm.route("PUT", f"{environment}/{{version}}", self.put_environment),
        ]

    # -- called by other handlers ----------------------------------------------------------------------

    def find(self, arm_id: str) -> Json | None:
        """Return the properties of an asset by its full id, or by `azureml:NAME:VERSION`, or None."""
        kind, name, version = _parse(arm_id)
        with self._lock:
            document = self._documents.get((kind, name, version))
        return document["properties"] if document else None

    def full_id(self, arm_id: str) -> str:
        """Return the Resource Manager id of an asset; the given id may be in the short form."""
        kind, name, version = _parse(arm_id)
        return f"{self.tenancy.workspace_path}/{kind}/{name}/versions/{version}"

    def unpack(self, code_id: str, folder: Path) -> None:
        """Write the files of code into a folder."""
        properties = self.find(code_id)
        if properties is None:
            raise KeyError(code_id)
        place = urllib.parse.unquote(urllib.parse.urlsplit(properties["codeUri"]).path).lstrip("/")
        container, _, prefix = place.partition("/")
        below = prefix.rstrip("/") + "/" if prefix else ""
        for name in self.blobs.names(container, below):
            path = folder / name.removeprefix(below)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs.get(container, name))

    # -- requests --------------------------------------------------------------------------------------

    def list_code(self, request: Request) -> Response:
        """Return the code with a hash, whatever its name is."""
        wanted = request.query.get("hash")
        with self._lock:
            found = [
                document
                for (kind, *_), document in self._documents.items()
                if kind == "codes" and document["properties"]["properties"].get("hash_sha256") == wanted
            ]
        return answer({"value": found[:1]})

    def start_upload(self, request: Request) -> Response:
        """Return where the client uploads the files of new code: a container of its own, and access to it."""
        container = str(uuid.uuid4())
        self.blobs.create_container(container)
        url = self.blobs.signed_url(container, "", "racwdl")
        account = f"Microsoft.Storage/storageAccounts/{self.tenancy.account}"
        group = self.tenancy.workspace_path.partition("/providers/")[0]
        reference = {
            "blobUri": url.partition("?")[0],
            "storageAccountArmId": f"{group}/providers/{account}",
            "credential": {"credentialType": "SAS", "sasUri": url},
        }
        kind = request.json().get("pendingUploadType")
        upload = {"pendingUploadId": str(uuid.uuid4()), "pendingUploadType": kind}
        return answer({**upload, "blobReferenceForConsumption": reference})

    def get_code(self, request: Request) -> Response:
        return answer(self._get("codes", request))

    def put_code(self, request: Request) -> Response:
        return self._put("codes", request, isAnonymous=False)

    def get_environment(self, request: Request) -> Response:
        return answer(self._get("environments", request))

    def put_environment(self, request: Request) -> Response:
        return self._put("environments", request, environmentType="UserCreated", osType="Linux")

    def _get(self, kind: str, request: Request) -> Json:
        name, version = request.names["name"], request.names["version"]
        with self._lock:
            document = self._documents.get((kind, name, version))
        if document is None:
            word = KINDS[kind]
            text = f"{word} version {name}:{version} ({word.lower()}ContainerName:version) not found."
            raise arm.Inner(404, text, "NotFoundError")
        return document

    def _put(self, kind: str, request: Request, **fixed: object) -> Response:
        name, version = request.names["name"], request.names["version"]
        with self._lock:
            before = self._documents.get((kind, name, version))
            sent = request.json()["properties"]
            if before and before["properties"].get("codeUri") != sent.get("codeUri"):
                raise arm.Inner(400, "Asset paths cannot be updated.", "BadArgument")
            made = before["systemData"]["createdAt"] if before else now()
            properties: Json = {"description": None, "tags": {}, "properties": {}, "isArchived": False}
            properties |= {**sent, **fixed}
            properties["properties"] = {name: str(value) for name, value in properties["properties"].items()}
            document = {
                "id": f"{self.tenancy.workspace_path}/{kind}/{name}/versions/{version}",
                "name": version,
                "type": f"Microsoft.MachineLearningServices/workspaces/{kind}/versions",
                "properties": properties,
                "systemData": arm.system_data(made),
            }
            self._documents[kind, name, version] = document
        return arm.created(request, document)


class ModelVersions:
    """Models in Resource Manager's shape; `Models` keeps them, whichever SDK has registered them."""

    def __init__(self, tenancy: Tenancy, models: Models) -> None:
        self.tenancy = tenancy
        self.models = models

    def routes(self) -> list[Route]:
        versions = "<WS>/models/{name}/versions"
        return [
            arm.route("GET", "<WS>/models/{name}", self.container),
            arm.route("GET", versions, self.list),
            arm.route("GET", f"{versions}/{{version}}", self.get),
            arm.route("PUT", f"{versions}/{{version}}", self.put),
            arm.route("DELETE", f"{versions}/{{version}}", self.delete),
        ]

    def container(self, request: Request) -> Response:
        """Return the latest and the next version of a model; the service counts the whole numbers."""
        name = request.names["name"]
        models = [model for model in self.models.all() if model["name"] == name]
        if not models:
            raise _no_container(name)
        numbers = [model["version"] for model in models if isinstance(model["version"], int)]
        versions = {
            "latestVersion": str(models[-1]["version"]),
            "nextVersion": str(max(numbers, default=0) + 1),
        }
        properties: Json = {
            "description": None,
            "tags": {},
            "properties": {},
            "isArchived": False,
            **versions,
        }
        return answer(
            {
                "id": f"{self.tenancy.workspace_path}/models/{name}",
                "name": name,
                "type": "Microsoft.MachineLearningServices/workspaces/models",
                "properties": properties,
                "systemData": arm.system_data(models[0]["createdTime"]),
            }
        )

    def list(self, request: Request) -> Response:
        """Return the versions of one model, newest first."""
        name, query = request.names["name"], request.query
        shown = [self._document(m) for m in reversed(self.models.all()) if m["name"] == name]
        if not shown:
            raise _no_container(name)
        if query.get("listViewType") == "ActiveOnly":
            shown = [document for document in shown if not document["properties"]["isArchived"]]
        return answer({"value": shown[: int(query.get("$top") or len(shown))]})

    def get(self, request: Request) -> Response:
        return answer(self._document(self._find(request)))

    def put(self, request: Request) -> Response:
        name, version, sent = request.names["name"], request.names["version"], request.json()["properties"]
        model = {
            "id": f"{name}:{version}",
            "name": name,
            "version": int(version) if version.isdecimal() else version,
            "url": self._stored_at(sent.get("modelUri") or ""),
            "mimeType": sent.get("modelType"),
            "kvTags": sent.get("tags") or {},
            "properties": sent.get("properties") or {},
            "description": sent.get("description"),
            "runId": sent.get("jobName"),
            "isArchived": bool(sent.get("isArchived")),
            "createdTime": now(),
        }
        return arm.created(request, self._document(self.models.put(model)))

    def delete(self, request: Request) -> Response:
        gone = self.models.remove(f"{request.names['name']}:{request.names['version']}")
        return answer(status=200 if gone else 204)

    def _find(self, request: Request) -> Json:
        wanted = f"{request.names['name']}:{request.names['version']}"
        for model in self.models.all():
            if model["id"] == wanted:
                return model
        text = f"Model version {wanted} (modelContainerName:version) not found."
        raise arm.Inner(404, text, "NotFoundError")

    def _stored_at(self, uri: str) -> str:
        """Return where the service keeps a model: not at the address that was sent."""
        head, found, path = uri.partition("/paths/")
        copied = path.startswith("ServiceReplicated/") or not found
        return uri if copied else f"{head}/paths/ServiceReplicated/{uuid.uuid4()}/{path}"

    def _document(self, model: Json) -> Json:
        name, version = model["name"], str(model["version"])
        properties = {
            "description": model.get("description"),
            "tags": model.get("kvTags") or {},
            "properties": model.get("properties") or {},
            "isArchived": model.get("isArchived", False),
            "isAnonymous": False,
            "flavors": {},
            "modelType": model.get("mimeType") or "custom_model",
            "modelUri": model.get("url"),
            "jobName": model.get("runId"),
        }
        return {
            "id": f"{self.tenancy.workspace_path}/models/{name}/versions/{version}",
            "name": version,
            "type": "Microsoft.MachineLearningServices/workspaces/models/versions",
            "properties": properties,
            "systemData": arm.system_data(model["createdTime"]),
        }


def _no_container(name: str) -> arm.Inner:
    return arm.Inner(404, f"Model container {name} not found.", "NotFoundError")


def _parse(arm_id: str) -> tuple[str, str, str]:
    """Return an asset's kind, name and version. The short form names an environment."""
    if arm_id.startswith("azureml:") and "/" not in arm_id:
        name, _, version = arm_id.removeprefix("azureml:").rpartition(":")
        return "environments", name, version
    parts = arm_id.rstrip("/").split("/")
    kind, name, _, version = parts[-4:] if len(parts) >= 4 else ("", "", "", "")
    return kind, name, version
