"""Data references: a datastore's path as a folder on the node, written through while the job runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .messages import Json

SYNC_SECONDS = 0.5


class MountError(Exception):
    """A reference that cannot be mounted; says why."""


class Mount:
    """One data reference: `path` is what the job is given."""

    def __init__(self, blobs: BlobStore, name: str, reference: Json, folder: Path) -> None:
        self.name = name
        self.blobs = blobs
        self.container = blobs.tenancy.container
        self.mode = str(reference.get("mode") or "mount").lower()
        self.prefix = (reference.get("pathOnDataStore") or "").strip("/")
        self.folder = folder / (reference.get("pathOnCompute") or name).strip("/")
        self.path = self.folder
        self._seen: dict[str, tuple[int, int]] = {}
        self._check(reference)

    def materialise(self) -> None:
        """Bring the store's files here.

        Raises:
            MountError: there is no such path in the store.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.mode == "upload":
            return
        rows = self.blobs.listing(self.container, self.prefix)
        below = f"{self.prefix}/" if self.prefix else ""
        inside = [row.name for row in rows if row.name.startswith(below)]
        if not inside and any(row.name == self.prefix for row in rows):
            self.path = self.folder / Path(self.prefix).name
            self.path.write_bytes(self.blobs.get(self.container, self.prefix))
            return
        if not inside and self.prefix:
            text = (
                f"The path {self.prefix!r} of the datastore {self.blobs.tenancy.datastore!r} does not exist."
            )
            raise MountError(text)
        for name in inside:
            path = self.folder / name.removeprefix(below)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs.get(self.container, name))
        self._seen = self._states()

    def write_through(self) -> None:
        """Bring to the store what the job has changed since the last time, and take away what it deleted."""
        if self.mode == "download" or self.path != self.folder:
            return
        states = self._states()
        for name, state in states.items():
            if self._seen.get(name) != state:
                self.blobs.put(self.container, self._blob(name), (self.folder / name).read_bytes())
        for name in self._seen.keys() - states.keys():
            if self.mode == "mount":
                self.blobs.delete(self.container, self._blob(name))
        self._seen = states

    def _check(self, reference: Json) -> None:
        if reference.get("dataStoreName") != self.blobs.tenancy.datastore:
            raise MountError(f"Could not find datastore: {reference.get('dataStoreName')}")

    def _states(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file below the folder; what vanishes meanwhile is left out."""
        states = {}
        for path in self.folder.rglob("*"):
            try:
                if path.is_file():
                    stat = path.stat()
                    states[str(path.relative_to(self.folder))] = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                continue
        return states

    def _blob(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


class WriteThrough:
    """Writes mounts through, again and again, until it is stopped; once more then."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._mounts = mounts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._once()

    def _run(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            self._once()

    def _once(self) -> None:
        for mount in self._mounts:
            try:
                mount.write_through()
            except OSError:
                continue  # a file that was being replaced; it is written the next time
