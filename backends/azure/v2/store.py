"""Opens the containers of the workspace's datastores.

It uses the key or the token that the datastore hands out. If there is none, or if the storage account refuses
keys, it uses the login.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import KEYS_REFUSED, call_with_retries
from mnist_cnn.backends.azure.store import BlobFiles, not_blobs
from mnist_cnn.backends.azure.v2.sdk import TIMEOUTS
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.checks import WorkspaceName
    from mnist_cnn.backends.azure.v2.sdk import Workspace

RUN_FILES = "workspaceartifactstore"
"""The datastore with the runs' outputs and logs."""
REUSE_SECONDS = 1200.0
"""How long a container is reused.

A token that the datastore hands out is valid for an hour.
"""
RETRIES = {"retry_total": 2, "initial_backoff": 1, "increment_base": 2}
"""Retries with short pauses.

The library's own pauses are 15 seconds and more.
"""

_opened: dict[tuple[WorkspaceName, str], tuple[float, Datastore]] = {}


@dataclasses.dataclass(frozen=True)
class Datastore:
    """A blob datastore.

    It `has_key` if it is opened with a key or a token.
    """

    name: str
    url: str
    container: Any
    has_key: bool

    @property
    def files(self) -> BlobFiles:
        """The datastore's blobs."""
        from azure.storage.blob import ContentSettings

        return BlobFiles(self.container, ContentSettings)


def open_datastore(workspace: Workspace, name: str = "") -> Datastore:
    """Return a datastore. Raises BackendError if it's unusable.

    Without a name, it is the default one.
    """
    key = (workspace.name, name)
    opened_at, datastore = _opened.get(key, (0.0, None))
    if datastore is None or time.monotonic() - opened_at > REUSE_SECONDS:
        datastore = _open(workspace, name)
        _opened[key] = (time.monotonic(), datastore)
    return datastore


def forget() -> None:
    """Open each container again when it is next needed."""
    _opened.clear()


def _open(workspace: Workspace, name: str) -> Datastore:
    found = _find(workspace, name)
    if not hasattr(found, "container_name"):
        raise not_blobs(found.name, found.type)
    key = _key(found)
    if key is not None:
        datastore = _with_credential(found, key, has_key=True)
        if _takes_keys(datastore):
            return datastore
    return _with_credential(found, workspace.credential, has_key=False)


def _key(found: Any) -> Any:
    """Return a datastore's key or token, or None."""
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    if sas_token := getattr(found.credentials, "sas_token", None):
        return AzureSasCredential(sas_token.removeprefix("?"))
    if account_key := getattr(found.credentials, "account_key", None):
        return AzureNamedKeyCredential(found.account_name, account_key)
    return None


def _with_credential(found: Any, credential: Any, *, has_key: bool) -> Datastore:
    from azure.storage.blob import ContainerClient

    account_url = f"{found.protocol}://{found.account_name}.blob.{found.endpoint}"
    container = ContainerClient(
        account_url, found.container_name, credential=credential, **TIMEOUTS, **RETRIES
    )
    return Datastore(found.name, f"{account_url}/{found.container_name}", container, has_key)


def _takes_keys(datastore: Datastore) -> bool:
    """Return whether the storage account accepts its keys.

    A policy may forbid them.
    """

    def list_one() -> None:
        next(datastore.container.list_blob_names(results_per_page=1), None)

    try:
        call_with_retries("list the blobs on the datastore", list_one)
    except ServiceError as error:
        if KEYS_REFUSED not in error.detail:
            raise
        return False
    return True


def _find(workspace: Workspace, name: str) -> Any:
    """Return the SDK's datastore, with its secrets if possible.

    The login may not be allowed to read them.
    """
    datastores = workspace.client.datastores
    find = partial(datastores.get, name) if name else datastores.get_default
    what = f"find the datastore {name}" if name else "find the default datastore"
    try:
        return call_with_retries(what, partial(find, include_secrets=True))
    except ServiceError as error:
        if error.status != 403 or "listsecrets" not in error.detail.lower():  # noqa: PLR2004
            raise
    return call_with_retries(what, find)
