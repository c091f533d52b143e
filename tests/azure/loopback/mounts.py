"""Data references: a path of the datastore as a folder on the node, whose changes are uploaded."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .messages import Json

SYNC_SECONDS = 0.5


class MountError(Exception):
    """A data reference cannot be mounted."""


class Mount:
    """One data reference; the job gets `path`."""

    def __init__(self, blobs: BlobStore, name: str, reference: Json, folder: Path) -> None:
        self.name = name
        self.blobs = blobs
        self.container = blobs.tenancy.container
        self.prefix = (reference.get("pathOnDataStore") or "").strip("/")
        self.path = folder / (reference.get("pathOnCompute") or name).strip("/")
        self.is_created = False
        """Whether a path that doesn't exist yet is an empty folder, as for the output of a job."""
        self._stored: dict[str, tuple[int, int]] = {}
        mode = str(reference.get("mode") or "mount").lower()
        if mode != "mount":
            raise MountError(f"The loopback service does not have the mode {mode!r}.")
        if reference.get("dataStoreName") != blobs.tenancy.datastore:
            raise MountError(f"Could not find datastore: {reference.get('dataStoreName')}")

    def download(self) -> None:
        """Copy the store's files into the folder.

        Raises:
            MountError: the path isn't a folder of the store.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        below = self._blob("")
        inside = self.blobs.names(self.container, below)
        if not inside and self.prefix and not self.is_created:
            store = self.blobs.tenancy.datastore
            raise MountError(f"The path {self.prefix!r} of the datastore {store!r} does not exist.")
        for name in inside:
            path = self.path / name.removeprefix(below)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs.get(self.container, name))
        self._stored = self._states()

    def upload_changes(self) -> None:
        """Upload the files that the job has changed since the last call; delete those that it deleted."""
        states = self._states()
        for name, state in states.items():
            if self._stored.get(name) != state:
                self.blobs.put(self.container, self._blob(name), (self.path / name).read_bytes())
        for name in self._stored.keys() - states.keys():
            self.blobs.delete(self.container, self._blob(name))
        self._stored = states

    def _states(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file in the folder; files that vanish meanwhile are left out."""
        states = {}
        for path in self.path.rglob("*"):
            try:
                if path.is_file():
                    stat = path.stat()
                    states[str(path.relative_to(self.path))] = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                continue
        return states

    def _blob(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


class WriteThrough:
    """Uploads the mounts' changes every SYNC_SECONDS, and once more when it is stopped."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._mounts = mounts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(SYNC_SECONDS)
            for mount in self._mounts:
                with contextlib.suppress(OSError):  # a file is being replaced; the next round uploads it
                    mount.upload_changes()
