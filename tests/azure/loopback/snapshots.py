"""Snapshots: the code that jobs run. A client sends a tree of hashes, and the files that changed."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from . import rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal
from .routes import Route
from .tenancy import API, Tenancy

if TYPE_CHECKING:
    from .blobs import BlobStore

CONTENT = "/content/{version}<WS>/snapshots"
CONTAINER = "snapshots"
NO_SNAPSHOT = str(uuid.UUID(int=0))


@dataclasses.dataclass(frozen=True)
class File:
    """The blob that holds a file, and the client's hash of the file."""

    blob: str
    digest: str


class Snapshots:
    """The files of each snapshot, by id and path."""

    def __init__(self, tenancy: Tenancy, blobs: BlobStore) -> None:
        self.tenancy = tenancy
        self.blobs = blobs
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, File]] = {}
        self._contents: dict[str, bytes] = {}  # of blobs, which never change
        self._latest: Json = {"id": NO_SNAPSHOT, "root": {}}

    def routes(self) -> list[Route]:
        return [
            Route("GET", API, f"{CONTENT}/latest/metadata", self.latest),
            Route("POST", API, f"{CONTENT}/getblob", self.upload_urls),
            Route("POST", API, f"{CONTENT}/{{snapshot}}", self.create),
        ]

    # -- called by other handlers and by tests ---------------------------------------------------------

    def __contains__(self, snapshot: str) -> bool:
        return snapshot in self._files

    def files(self, snapshot: str) -> list[str]:
        return sorted(self._files[snapshot])

    def forget_the_latest(self) -> None:
        """Forget the latest snapshot, so that the next client must send all of its files."""
        with self._lock:
            self._latest = {"id": NO_SNAPSHOT, "root": {}}

    def unpack(self, snapshot: str, folder: Path) -> None:
        """Write a snapshot's files into a folder."""
        for name, file in self._files[snapshot].items():
            if file.blob not in self._contents:
                self._contents[file.blob] = self.blobs.get(CONTAINER, file.blob)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._contents[file.blob])

    # -- requests --------------------------------------------------------------------------------------

    def latest(self, _request: Request) -> Response:
        with self._lock:
            return answer(self._latest)

    def upload_urls(self, request: Request) -> Response:
        """Return the URL to which the client uploads each file."""
        nodes = []
        for name in request.json()["FileNames"]:
            url = self.blobs.signed_url(CONTAINER, f"{uuid.uuid4()}/{name}", "rcw")
            nodes.append({"fullName": name, "blobUri": url})
        return answer({"fileNodes": nodes})

    def create(self, request: Request) -> Response:
        sent, snapshot = request.json(), request.names["snapshot"]
        with self._lock:
            parent = self._files.get(sent.get("ParentSnapshotId") or "", {})
        revisions = (sent.get("FileRevisionList") or {}).get("FileNodes") or []
        sizes = {row["FullName"]: row["FileSize"] for row in revisions}
        new = {row["FullName"]: _blob_name(row["BlobUri"]) for row in revisions}
        files = {}
        for path, digest in _leaves(sent["DirTreeNode"]):
            before = parent.get(path)
            blob = new.get(path) or (before.blob if before and before.digest == digest else None)
            if blob is None or (path in new and not self.blobs.exists(CONTAINER, blob)):
                raise Refusal(400, "UserError", f"The snapshot's file {path} was never uploaded.")
            files[path] = File(blob, digest)
        limits = rules.facts()["limits"]
        if len(files) > limits["snapshot_files_max"] or sum(sizes.values()) > limits["snapshot_bytes_max"]:
            raise Refusal(400, "UserError", "The snapshot has too many files or bytes.")
        with self._lock:
            self._files[snapshot] = files
            self._latest = {"id": snapshot, "root": sent["DirTreeNode"]}
        return answer({"id": snapshot, "parentId": sent.get("ParentSnapshotId"), "root": sent["DirTreeNode"]})


def _leaves(node: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and hash of each file in a tree; paths leave out the root's name."""
    for name, child in (node.get("children") or {}).items():
        if child["type"] == "File":
            yield prefix + name, child["hash"]
        else:
            yield from _leaves(child, f"{prefix}{name}/")


def _blob_name(url: str) -> str:
    return unquote(urlsplit(url).path).removeprefix(f"/{CONTAINER}/")
