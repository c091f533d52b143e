"""Artifacts: files of runs and models, by origin, container and path. The blob store holds their bytes."""

from __future__ import annotations

import posixpath
import threading
from typing import TYPE_CHECKING

from .messages import Json, Request, Response, answer
from .refusals import Refusal, data_plane_error, now
from .routes import Route
from .tenancy import API, Tenancy

if TYPE_CHECKING:
    from .blobs import BlobStore

ARTIFACTS = "/artifact/v2.0<WS>/artifacts"
CONTAINER = "azureml"
"""The storage account's container for all artifacts."""
PAGE = 100


class Artifacts:
    """Paths are kept normalised: `./outputs/x` and `outputs/x` are one artifact."""

    def __init__(self, tenancy: Tenancy, blobs: BlobStore) -> None:
        self.tenancy = tenancy
        self.blobs = blobs
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, Json]] = {}

    def routes(self) -> list[Route]:
        owner = "{origin}/{container}"
        return [
            Route("POST", API, f"{ARTIFACTS}/batch/metadata/{owner}", self.create),
            Route("GET", API, f"{ARTIFACTS}/prefix/contentinfo/{owner}/{{*path}}", self.content_by_prefix),
            Route("GET", API, f"{ARTIFACTS}/prefix/contentinfo/{owner}", self.content_by_prefix),
            Route("GET", API, f"{ARTIFACTS}/contentinfo/{owner}/{{*path}}", self.content),
            Route("GET", API, f"{ARTIFACTS}/{owner}", self.list),
            Route("GET", API, f"{ARTIFACTS}/{owner}/{{*path}}", self.list),
        ]

    # -- called by other handlers and by tests ---------------------------------------------------------

    def write(self, origin: str, container: str, path: str, content: bytes) -> None:
        """Store an artifact that the service itself makes, such as a log."""
        self._add(origin, container, path)
        self.blobs.put(CONTAINER, _blob(origin, container, path), content)

    def read(self, origin: str, container: str, path: str) -> bytes:
        return self.blobs.get(CONTAINER, _blob(origin, container, path))

    def delete(self, origin: str, container: str, path: str) -> None:
        """Delete an artifact, as a user can in the studio."""
        with self._lock:
            del self._known[origin, container][path]

    def paths(self, origin: str, container: str, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(p for p in self._known.get((origin, container), {}) if p.startswith(prefix))

    def url(self, origin: str, container: str, path: str) -> str:
        return self.blobs.signed_url(CONTAINER, _blob(origin, container, path))

    # -- requests --------------------------------------------------------------------------------------

    def create(self, request: Request) -> Response:
        """Return where to write each new artifact; one that exists is refused, within a status of 200."""
        origin, container = request.names["origin"], request.names["container"]
        artifacts, content, errors = {}, {}, {}
        for row in request.json()["paths"]:
            path = row["path"]
            artifact, is_new = self._add(origin, container, path)
            if is_new:
                artifacts[path] = artifact
                content[path] = self._content(request, artifact["path"], "rcw")
            else:
                text = f"Resource Conflict: ArtifactId {artifact['artifactId']} already exists."
                errors[path] = data_plane_error(Refusal(409, "UserError", text), "artifact")
        return answer({"artifacts": artifacts, "artifactContentInformation": content, "errors": errors})

    def content(self, request: Request) -> Response:
        return answer(self._content(request, self._existing(request)["path"]))

    def content_by_prefix(self, request: Request) -> Response:
        prefix = posixpath.normpath(request.names.get("path") or request.query.get("path") or "").lstrip(".")
        paths = self.paths(request.names["origin"], request.names["container"], prefix)
        return _page(request, [self._content(request, path) for path in paths])

    def list(self, request: Request) -> Response:
        origin, container = request.names["origin"], request.names["container"]
        prefix = request.names.get("path") or request.query.get("path") or ""
        with self._lock:
            known = dict(self._known.get((origin, container), {}))
        return _page(request, [known[path] for path in sorted(known) if path.startswith(prefix)])

    def _existing(self, request: Request) -> Json:
        owner = request.names["origin"], request.names["container"]
        with self._lock:
            known = self._known.get(owner, {}).get(posixpath.normpath(request.names["path"]))
        if known is None:
            raise Refusal(404, "UserError", f"Artifact {request.names['path']} was not found")
        return known

    def _content(self, request: Request, path: str, permissions: str = "r") -> Json:
        origin, container = request.names["origin"], request.names["container"]
        url = self.blobs.signed_url(CONTAINER, _blob(origin, container, path), permissions)
        return {"contentUri": url, "origin": origin, "container": container, "path": path}

    def _add(self, origin: str, container: str, path: str) -> tuple[Json, bool]:
        """Return an artifact, and whether it is new."""
        path = posixpath.normpath(path)
        artifact = {
            "artifactId": f"{origin}/{container}/{path}",
            "origin": origin,
            "container": container,
            "path": path,
            "createdTime": now(),
            "dataPath": {
                "dataStoreName": "workspaceartifactstore",
                "relativePath": _blob(origin, container, path),
            },
        }
        with self._lock:
            known = self._known.setdefault((origin, container), {}).setdefault(path, artifact)
        return known, known is artifact


def _page(request: Request, rows: list[Json]) -> Response:
    start = int(request.query.get("continuationToken") or 0)
    more = str(start + PAGE) if start + PAGE < len(rows) else None
    return answer({"value": rows[start : start + PAGE], "continuationToken": more, "nextLink": None})


def _blob(origin: str, container: str, path: str) -> str:
    return f"{origin}/{container}/{posixpath.normpath(path)}"
