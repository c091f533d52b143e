"""Opens the workspace's default datastore."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mnist_cnn.backends.azure.calls import STUDIO, call_with_retries
from mnist_cnn.backends.azure.store import BlobFiles, not_blobs
from mnist_cnn.errors import BackendError


def default_datastore(workspace: Any) -> Any:
    """Return the default datastore. Raises BackendError if unusable."""
    store = call_with_retries("find the default datastore", workspace.get_default_datastore)
    kind = getattr(store, "datastore_type", type(store).__name__)
    if kind != "AzureBlob":
        raise not_blobs(store.name, kind)
    if not (store.account_key or store.sas_token):
        message = f"the datastore {store.name} has neither a key nor a SAS token for this login"
        hint = f"set backend.sdk=v2, which needs none; or add a key at {STUDIO}, under Data"
        raise BackendError(message, hint)
    return store


def files_of(store: Any) -> BlobFiles:
    """Return a datastore's blobs.

    The client is that of the SDK's own copy of azure-storage.
    """
    storage: Any = import_module("azureml._vendor.azure_storage.blob")
    container = store.blob_service.get_container_client(store.container_name)
    return BlobFiles(container, storage.ContentSettings)
