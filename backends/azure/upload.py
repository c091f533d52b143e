"""The data files on the workspace's default datastore: sent where they are missing, then compared.

The SDK's own `upload` loses files without an exception (azureml-core 1.61), so that the blobs are sent one
by one, and the container is asked afterwards what it holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.parallel import run_parallel
from mnist_cnn.backends.azure.service import CALL_SECONDS, call_again, say
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnist_cnn.backends.azure.plan import DataFile

TELL_SECONDS = 5.0
SLOWEST = 50_000
"""Bytes per second below which an upload is given up."""


@dataclasses.dataclass(frozen=True)
class Blob:
    """What decides whether two files are the same: length in bytes and MD5, in hex."""

    bytes: int
    md5: str


def default_datastore(workspace: Any) -> Any:
    """Return the default datastore, which must be a blob container with a key.

    Raises:
        BackendError: it is of another type, or this login may not have its key.
    """
    store = call_again("find the default datastore", workspace.get_default_datastore)
    kind = getattr(store, "datastore_type", type(store).__name__)
    if kind != "AzureBlob":
        message = f"the default datastore {store.name} is {kind}, and only AzureBlob is supported"
        raise BackendError(message, "make a blob datastore the workspace's default one, in the studio")
    if not (store.account_key or store.sas_token):
        message = f"the datastore {store.name} has neither a key nor a SAS token for this login"
        raise BackendError(message, "give it credentials in the studio, under Data, Datastores")
    return store


def describe(store: Any) -> str:
    """Word which datastore it is."""
    place = f"account {store.account_name}, container {store.container_name}"
    return f"datastore {store.name}: {store.datastore_type}, {place}"


def missing(store: Any, folder: str, files: tuple[DataFile, ...]) -> tuple[DataFile, ...]:
    """Return the data files that the datastore does not have with the same size and MD5.

    Raises:
        BackendError: the datastore does not say what it has.
    """
    there = blobs(store, folder)
    return tuple(file for file in files if there.get(f"{folder}/{file.name}") != _describe(file.source))


def send(store: Any, folder: str, files: tuple[DataFile, ...]) -> None:
    """Send data files, all at the same time; afterwards compare what the datastore holds.

    Raises:
        BackendError: a file was refused, or is not there as it was sent.
    """
    if not files:
        return
    ours = {f"{folder}/{file.name}": _describe(file.source) for file in files}
    for number, (name, blob) in enumerate(ours.items(), start=1):
        say(f"data: sending {name}, {blob.bytes:,} bytes ({number} of {len(files)})")
    size = sum(blob.bytes for blob in ours.values())  # they share the way there, and so its time
    sent = zip(files, ours.items(), strict=True)
    run_parallel(
        *(partial(_send, store, name, file.source.read_bytes, blob, size) for file, (name, blob) in sent)
    )
    there = blobs(store, folder)
    wrong = [name for name, blob in ours.items() if there.get(name) != blob]
    if wrong:
        message = f"the container does not hold what was sent: {', '.join(wrong)}"
        raise BackendError(message, "look at the datastore in the studio, and start again")


def send_content(store: Any, name: str, content: bytes) -> None:
    """Write a blob. Raises ServiceError."""
    blob = Blob(len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
    _send(store, name, lambda: content, blob, blob.bytes)


def blobs(store: Any, folder: str) -> dict[str, Blob]:
    """Return what a folder of the datastore holds, by name. Raises ServiceError."""

    def list_them() -> dict[str, Blob]:
        container = store.blob_service.get_container_client(store.container_name)
        return {
            blob.name: Blob(blob.size, bytes(blob.content_settings.content_md5 or b"").hex())
            for blob in container.list_blobs(name_starts_with=f"{folder}/")
        }

    return call_again(f"list {folder}/ of the datastore", list_them)


def _send(store: Any, name: str, read: Callable[[], bytes], described: Blob, size: int) -> None:
    """Send a blob; `size` is that of all that are sent at the same time, in bytes."""
    content = read()

    def put() -> None:
        # The client that the SDK carries with it, which its datastore is made of.
        storage: Any = import_module("azureml._vendor.azure_storage.blob")
        blob = store.blob_service.get_blob_client(container=store.container_name, blob=name)
        settings = storage.ContentSettings(content_md5=bytearray.fromhex(described.md5))
        blob.upload_blob(
            content,
            blob_type="BlockBlob",
            overwrite=True,
            content_settings=settings,
            progress_hook=_teller(name),
        )

    call_again(f"send {name}", put, CALL_SECONDS + size / SLOWEST)


def _teller(name: str) -> Callable[[int, int | None], None]:
    """Return a function that says, of a blob that takes long, how much of it is there."""
    last = time.monotonic()

    def tell(sent: int, total: int | None) -> None:
        nonlocal last
        if total and time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            say(f"data: {sent / total:.0%} of {name}")

    return tell


def _describe(path: Path) -> Blob:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return Blob(path.stat().st_size, digest.hexdigest())
