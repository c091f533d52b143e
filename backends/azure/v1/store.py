"""Sends data files to the workspace's default datastore and checks that they arrived.

The SDK's `upload` loses files without an exception (azureml-core 1.61). So each blob is sent by itself, and
the container is listed afterwards.
"""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import CALL_SECONDS, call, call_with_retries
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import MIN_BYTES_PER_SECOND, Blob, blob_of
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.backends.remote.snapshot import SentFile

REPORT_SECONDS = 5.0


class DatastoreFiles:
    """The files of a datastore, as a `Store`."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def list(self, folder: str) -> dict[str, Blob]:
        """Return the blobs in a folder, by name."""
        return call(f"list {folder}/ on the datastore", lambda: _list(self._store, folder))

    def get(self, name: str, size: int) -> bytes:
        """Return a blob's content."""
        blob = self._store.blob_service.get_blob_client(container=self._store.container_name, blob=name)
        seconds = CALL_SECONDS + size / MIN_BYTES_PER_SECOND
        content: bytes = call(f"read {name}", lambda: blob.download_blob().readall(), seconds)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Send a blob."""
        _put(self._store, name, content, len(content))


def default_datastore(workspace: Any) -> Any:
    """Return the default datastore. Raises BackendError if it can't be used."""
    store = call_with_retries("find the default datastore", workspace.get_default_datastore)
    kind = getattr(store, "datastore_type", type(store).__name__)
    if kind != "AzureBlob":
        message = f"the default datastore {store.name} is {kind}; only AzureBlob is supported"
        raise BackendError(message, "set a blob datastore as the default one at https://ml.azure.com")
    if not (store.account_key or store.sas_token):
        message = f"the datastore {store.name} has neither a key nor a SAS token for this login"
        hint = "set backend.sdk=v2, which needs none; or add a key at https://ml.azure.com, under Data"
        raise BackendError(message, hint)
    return store


def missing(store: Any, folder: str, files: tuple[SentFile, ...]) -> tuple[SentFile, ...]:
    """Return the data files that the datastore lacks, by size and MD5. Raises ServiceError."""
    blobs = list_blobs(store, folder)
    local = {file: blob_of(file.source.read_bytes()) for file in files}
    return tuple(file for file, blob in local.items() if blobs.get(f"{folder}/{file.name}") != blob)


def send(store: Any, folder: str, files: tuple[SentFile, ...]) -> None:
    """Send data files in parallel, and check that they arrived. Raises BackendError."""
    if not files:
        return
    contents = {f"{folder}/{file.name}": file.source.read_bytes() for file in files}
    for number, (name, content) in enumerate(contents.items(), start=1):
        report(f"data: sending {name}, {len(content):,} bytes ({number} of {len(files)})")
    size = sum(map(len, contents.values()))  # they share the bandwidth, and so the time limit
    send_one = partial(send_content, store, in_parallel=size)
    run_parallel(*(partial(send_one, name, content) for name, content in contents.items()))
    remote = list_blobs(store, folder)
    wrong = [name for name, content in contents.items() if remote.get(name) != blob_of(content)]
    if wrong:
        message = f"the datastore does not have what was sent: {', '.join(wrong)}"
        raise BackendError(message, "check the datastore at https://ml.azure.com, and try again")


def send_content(store: Any, name: str, content: bytes, *, in_parallel: int = 0) -> None:
    """Send a blob; `in_parallel` is the bytes of all that are sent at the same time. Raises ServiceError."""
    with_retries(lambda: _put(store, name, content, max(in_parallel, len(content))))


def list_blobs(store: Any, folder: str) -> dict[str, Blob]:
    """Return the blobs in a folder of the datastore, by name. Raises ServiceError."""
    return call_with_retries(f"list {folder}/ on the datastore", lambda: _list(store, folder))


def _put(store: Any, name: str, content: bytes, size: int) -> None:
    def put() -> None:
        # The datastore's client is of the copy that the SDK contains.
        storage: Any = import_module("azureml._vendor.azure_storage.blob")
        client = store.blob_service.get_blob_client(container=store.container_name, blob=name)
        client.upload_blob(
            content,
            blob_type="BlockBlob",
            overwrite=True,
            content_settings=storage.ContentSettings(content_md5=bytearray.fromhex(blob_of(content).md5)),
            progress_hook=_progress_reporter(name),
        )

    call(f"send {name}", put, CALL_SECONDS + size / MIN_BYTES_PER_SECOND)


def _list(store: Any, folder: str) -> dict[str, Blob]:
    container = store.blob_service.get_container_client(store.container_name)
    return {
        blob.name: Blob(blob.size, bytes(blob.content_settings.content_md5 or b"").hex())
        for blob in container.list_blobs(name_starts_with=f"{folder}/")
    }


def _progress_reporter(name: str) -> Callable[[int, int | None], None]:
    """Return a function that reports, every few seconds, how much of a blob was sent."""
    last = time.monotonic()

    def report_progress(sent: int, total: int | None) -> None:
        nonlocal last
        if total and time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            report(f"data: sent {sent / total:.0%} of {name}")

    return report_progress
