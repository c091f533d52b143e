"""Artifacts: files of runs and models, by origin, container and path; the blob store has their bytes."""

from __future__ import annotations

import posixpath
import threading
from typing import TYPE_CHECKING

from .messages import Json, Request, Response, answer
from .refusals import Refusal, now
from .routes import Route
from .tenancy import API, Tenancy

if TYPE_CHECKING:
    from .blobs import BlobStore

ARTIFACTS = "/artifact/v2.0<WS>/artifacts"
CONTAINER = "azureml"
"""The container of the storage account that holds all artifacts."""
PAGE = 100


class Artifacts:
    """Paths are kept normalised: `./outputs/x` and `outputs/x` are one artifact."""

    def __init__(self, tenancy: Tenancy, blobs: BlobStore) -> None:
        self.tenancy = tenancy
        self.blobs = blobs
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, Json]] = {}

    def routes(self) -> list[Route]:
        place = "{origin}/{container}"
        return [
            Route("POST", API, f"{ARTIFACTS}/batch/metadata/{place}", self.create),
            Route("GET", API, f"{ARTIFACTS}/prefix/contentinfo/{place}/{{*path}}", self.content_by_prefix),
            Route("GET", API, f"{ARTIFACTS}/prefix/contentinfo/{place}", self.content_by_prefix),
            Route("GET", API, f"{ARTIFACTS}/contentinfo/{place}/{{*path}}", self.content),
            Route("GET", API, f"{ARTIFACTS}/metadata/{place}/{{*path}}", self.metadata),
            Route("GET", API, f"{ARTIFACTS}/{place}", self.list),
            Route("GET", API, f"{ARTIFACTS}/{place}/{{*path}}", self.list),
        ]

    # -- for the other handlers and for tests -------------------------------------------------------------

    def write(self, origin: str, container: str, path: str, content: bytes) -> None:
        """Enter an artifact of the service's own, a log for example."""
        self._enter(origin, container, path)
        self.blobs.put(CONTAINER, _blob(origin, container, path), content)

    def read(self, origin: str, container: str, path: str) -> bytes:
        return self.blobs.get(CONTAINER, _blob(origin, container, path))

    def delete(self, origin: str, container: str, path: str) -> None:
        """Forget an artifact, as where somebody deletes it in the studio."""
        with self._lock:
            del self._known[origin, container][path]

    def paths(self, origin: str, container: str, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(p for p in self._known.get((origin, container), {}) if p.startswith(prefix))

    def url(self, origin: str, container: str, path: str) -> str:
        return self.blobs.signed_url(CONTAINER, _blob(origin, container, path))

    # -- requests --------------------------------------------------------------------------------------

    def create(self, request: Request) -> Response:
        origin, container = request.names["origin"], request.names["container"]
        artifacts, content = {}, {}
        for row in request.json()["paths"]:
            asked = row["path"]
            path = posixpath.normpath(asked)
            artifacts[asked] = self._enter(origin, container, path)
            url = self.blobs.signed_url(CONTAINER, _blob(origin, container, path), "rcw")
            content[asked] = {"contentUri": url, "origin": origin, "container": container, "path": path}
        return answer({"artifacts": artifacts, "artifactContentInformation": content, "errors": {}})

    def content(self, request: Request) -> Response:
        return answer(self._content(request, self._required(request)))

    def metadata(self, request: Request) -> Response:
        origin, container = request.names["origin"], request.names["container"]
        with self._lock:
            known = self._known.get((origin, container), {}).get(posixpath.normpath(request.names["path"]))
        if known is None:
            raise _not_found(request)
        return answer(known)

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

    def _required(self, request: Request) -> str:
        path = posixpath.normpath(request.names["path"])
        if path not in self.paths(request.names["origin"], request.names["container"]):
            raise _not_found(request)
        return path

    def _content(self, request: Request, path: str) -> Json:
        origin, container = request.names["origin"], request.names["container"]
        place = {"origin": origin, "container": container, "path": path}
        return {"contentUri": self.url(origin, container, path), **place}

    def _enter(self, origin: str, container: str, path: str) -> Json:
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
            return self._known.setdefault((origin, container), {}).setdefault(path, artifact)


def _page(request: Request, rows: list[Json]) -> Response:
    start = int(request.query.get("continuationToken") or 0)
    more = str(start + PAGE) if start + PAGE < len(rows) else None
    return answer({"value": rows[start : start + PAGE], "continuationToken": more, "nextLink": None})


def _blob(origin: str, container: str, path: str) -> str:
    return f"{origin}/{container}/{posixpath.normpath(path)}"


def _not_found(request: Request) -> Refusal:
    return Refusal(404, "UserError", f"Artifact {request.names['path']} was not found")
