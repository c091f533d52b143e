"""The data files on the workspace's default datastore: sent where they are missing, then compared.

The SDK's own `upload` loses files without an exception (azureml-core 1.61), so that the blobs are sent one
by one, and the container is asked afterwards what it holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    say(f"datastore {store.name}: {kind}, account {store.account_name}, container {store.container_name}")
    if not (store.account_key or store.sas_token):
        message = f"the datastore {store.name} has neither a key nor a SAS token for this login"
        raise BackendError(message, "give it credentials in the studio, under Data, Datastores")
    return store


def send(store: Any, folder: str, files: tuple[DataFile, ...], *, overwrite: bool) -> None:
    """Send the data files that the datastore does not have yet; afterwards compare what it holds.

    Raises:
        BackendError: a file was refused, or is not there as it was sent.
    """
    wanted = {f"{folder}/{file.name}": file for file in files}
    there = _blobs(store, folder)
    ours = {name: _describe(file.source) for name, file in wanted.items()}
    missing = [name for name in wanted if overwrite or there.get(name) != ours[name]]
    kept = len(wanted) - len(missing)
    if kept:
        say(f"data: {kept} of {len(wanted)} files are already in {folder}/, with the same size and MD5")
    for number, name in enumerate(missing, start=1):
        say(f"data: sending {name}, {ours[name].bytes:,} bytes ({number} of {len(missing)})")
        _send(store, name, wanted[name].source.read_bytes(), ours[name])
    if missing:
        there = _blobs(store, folder)
    wrong = [name for name in wanted if there.get(name) != ours[name]]
    if wrong:
        message = f"the container does not hold what was sent: {', '.join(wrong)}"
        raise BackendError(message, "look at the datastore in the studio, and start again")


def send_text(store: Any, name: str, text: str) -> None:
    """Write a small text as a blob. Raises ServiceError."""
    content = text.encode()
    _send(store, name, content, Blob(len(content), hashlib.md5(content, usedforsecurity=False).hexdigest()))


def _blobs(store: Any, folder: str) -> dict[str, Blob]:
    def list_them() -> dict[str, Blob]:
        container = store.blob_service.get_container_client(store.container_name)
        return {
            blob.name: Blob(blob.size, bytes(blob.content_settings.content_md5 or b"").hex())
            for blob in container.list_blobs(name_starts_with=f"{folder}/")
        }

    return call_again(f"list {folder}/ of the datastore", list_them)


def _send(store: Any, name: str, content: bytes, described: Blob) -> None:
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

    call_again(f"send {name}", put, CALL_SECONDS + described.bytes / SLOWEST)


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
