"""The steps before a submission, shared by both SDKs."""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import cluster
from mnist_cnn.backends.azure.store import missing, send_data
from mnist_cnn.backends.remote import checkpoints, workers
from mnist_cnn.backends.remote.calls import report, with_retries

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.backends.azure.checks import WorkspaceName
    from mnist_cnn.backends.azure.cluster import Cluster
    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.azure.plan import Request
    from mnist_cnn.backends.azure.store import BlobFiles
    from mnist_cnn.backends.remote.service import Handle
    from mnist_cnn.backends.remote.snapshot import SentFile

REUSE_SECONDS = 60.0
"""How long a step's result is reused.

Steps are an upload, and finding the cluster ready.
"""

_done_at: dict[tuple[Any, ...], float] = {}
"""When this process last did a step."""


def is_recent(key: tuple[Any, ...]) -> bool:
    """Return whether a step was done within REUSE_SECONDS."""
    return time.monotonic() - _done_at.get(key, -REUSE_SECONDS) < REUSE_SECONDS


def remember(key: tuple[Any, ...]) -> None:
    """Record that this process did a step now."""
    _done_at[key] = time.monotonic()


def forget() -> None:
    """Clear the record, so that every step is repeated."""
    _done_at.clear()


def data_key(place: str, request: Request, config: AzureConfig) -> tuple[Any, ...]:
    """Return the key of a data upload."""
    return (place, request.data_folder, request.data_files, config.data.overwrite)


def find_missing_data(
    files: BlobFiles, place: str, request: Request, config: AzureConfig
) -> tuple[SentFile, ...]:
    """Return the data files that a container lacks."""
    key = data_key(place, request, config)
    if is_recent(key):
        return ()
    _done_at.pop(key, None)
    if config.data.overwrite:
        return request.data_files
    return missing(files, request.data_folder, request.data_files)


def sending(
    files: BlobFiles, handle: Handle, request: Request, absent: tuple[SentFile, ...]
) -> tuple[Callable[[], object], ...]:
    """Return steps that send data, job and newest checkpoint."""
    if known := len(request.data_files) - len(absent):
        where = f"{request.data_folder}/, with the same size and MD5"
        report(f"data: {known} of {len(request.data_files)} files are already in {where}")
    job = run_folder.read_job(handle.folder).to_json().encode()
    return (
        partial(send_data, files, request.data_folder, absent),
        # A folder must exist to be mounted.
        partial(with_retries, partial(files.put, f"{handle.checkpoints}/job.json", job)),
        partial(checkpoints.send, files, handle.checkpoints, handle.folder),
    )


class ClusterStep:
    """Makes the cluster ready, unless it recently was.

    `find` and `request` are the SDK's: they return the cluster, and request its creation. Other steps can run
    in parallel with the methods `find`, which is read-only, and `ensure`.
    """

    def __init__(
        self,
        place: object,
        config: AzureConfig,
        find: Callable[[], Cluster | None],
        request: Callable[[], object],
    ) -> None:
        self._key, self._config, self._find, self._request = (place, config), config, find, request
        self._is_ready = is_recent(self._key)
        self._found: Cluster | None = None

    def find(self) -> None:
        """Find the cluster. Raises ServiceError."""
        if not self._is_ready:
            self._found = self._find()

    def ensure(self) -> None:
        """Create the cluster or check it. Raises BackendError."""
        if not self._is_ready:
            self._found = cluster.ensure(self._config, self._found, self._request, self._find)

    def wait(self) -> None:
        """Wait until the cluster is ready. Raises BackendError."""
        if self._found is not None:
            cluster.wait_until_ready(self._found, self._config, self._find)
            remember(self._key)


def variables(request: Request) -> dict[str, str]:
    """Return environment variables for the nodes.

    A new token lets several workers recognise each other.
    """
    return {workers.TOKEN: secrets.token_urlsafe(32)} if request.workers > 1 else {}


def report_workspace(name: WorkspaceName, location: str, *, has_registry: bool) -> None:
    """Report the workspace.

    Once per process, also report that the first image build creates a billed registry.
    """
    report(f"workspace {name.name}: {location}, resource group {name.resource_group}")
    key = (name, "registry")
    if not has_registry and key not in _done_at:
        report("the workspace has no container registry; its first image build creates one, which is billed")
        remember(key)
