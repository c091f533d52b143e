"""Blobs of a datastore, and uploads of data files.

The blob clients of both SDKs are alike. The upload of SDK v1 loses files without an exception (azureml-core
1.61), and that of SDK v2 waits for ever after a failed one (azure-ai-ml 1.35). So each blob is sent by
itself, and the container is listed afterwards.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.calls import CALL_SECONDS, STUDIO, call
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import MIN_BYTES_PER_SECOND, Blob, ServiceError, blob_of
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnist_cnn.backends.remote.snapshot import SentFile

REPORT_SECONDS = 5.0
THREADS = 8
"""How many blobs are sent at the same time."""


class BlobFiles:
    """The blobs of a container, as a `Store`.

    `content_settings` is the class of the client's library.
    """

    def __init__(self, container: Any, content_settings: Callable[..., Any]) -> None:
        self._container = container
        self._content_settings = content_settings

    def list(self, folder: str) -> dict[str, Blob]:
        """Return the blobs in a folder, by name."""
        return call(f"list {folder}/ on the datastore", lambda: self._list(folder))

    def get(self, name: str, size: int) -> bytes:
        """Return a blob's content."""
        seconds = CALL_SECONDS + size / MIN_BYTES_PER_SECOND
        content: bytes = call(f"read {name}", lambda: self._container.download_blob(name).readall(), seconds)
        return content

    def put(self, name: str, content: bytes, *, in_parallel: int = 0) -> None:
        """Send a blob.

        `in_parallel` is the bytes of all that share the bandwidth, and so the time limit.
        """
        seconds = CALL_SECONDS + max(in_parallel, len(content)) / MIN_BYTES_PER_SECOND
        call(f"send {name}", lambda: self._put(name, content), seconds)

    def remove(self, name: str) -> None:
        """Remove a blob; do nothing if it is missing."""
        try:
            call(f"remove {name} from the datastore", lambda: self._container.delete_blob(name))
        except ServiceError as error:
            if not error.is_not_found:
                raise

    def _list(self, folder: str) -> dict[str, Blob]:
        return {
            blob.name: Blob(blob.size, bytes(blob.content_settings.content_md5 or b"").hex())
            for blob in self._container.list_blobs(name_starts_with=f"{folder}/")
        }

    def _put(self, name: str, content: bytes) -> None:
        self._container.upload_blob(
            name,
            content,
            blob_type="BlockBlob",
            overwrite=True,
            content_settings=self._content_settings(content_md5=bytearray.fromhex(blob_of(content).md5)),
            progress_hook=_progress_reporter(name),
        )


def not_blobs(name: str, kind: str) -> BackendError:
    """Return the error for a datastore of another kind."""
    message = f"the datastore {name} is {kind}; only AzureBlob is supported"
    return BackendError(message, f"set a blob datastore as the default one at {STUDIO}")


def missing(store: BlobFiles, folder: str, files: Iterable[SentFile]) -> tuple[SentFile, ...]:
    """Return files that a folder lacks. Raises ServiceError.

    Compares size and MD5.
    """
    blobs = with_retries(lambda: store.list(folder))
    local = {file: blob_of(file.source.read_bytes()) for file in files}
    return tuple(file for file, blob in local.items() if blobs.get(f"{folder}/{file.name}") != blob)


def send(store: BlobFiles, folder: str, files: tuple[SentFile, ...]) -> None:
    """Send files in parallel and check them. Raises BackendError."""
    if not files:
        return
    contents = {f"{folder}/{file.name}": file.source.read_bytes() for file in files}
    size = sum(map(len, contents.values()))
    put = partial(_put_all, store, in_parallel=size)
    run_parallel(*(partial(put, list(contents.items())[number::THREADS]) for number in range(THREADS)))
    remote = with_retries(lambda: store.list(folder))
    wrong = [name for name, content in contents.items() if remote.get(name) != blob_of(content)]
    if wrong:
        message = f"the datastore does not have what was sent: {', '.join(wrong)}"
        raise BackendError(message, f"check the datastore at {STUDIO}, and try again")


def send_data(store: BlobFiles, folder: str, files: tuple[SentFile, ...]) -> None:
    """Send data files and report each. Raises BackendError."""
    for number, file in enumerate(files, start=1):
        report(f"data: sending {folder}/{file.name}, {file.bytes:,} bytes ({number} of {len(files)})")
    send(store, folder, files)


def _put_all(store: BlobFiles, contents: list[tuple[str, bytes]], *, in_parallel: int) -> None:
    for name, content in contents:
        with_retries(partial(store.put, name, content, in_parallel=in_parallel))


def _progress_reporter(name: str) -> Callable[[int, int | None], None]:
    """Return a function that regularly reports upload progress."""
    last = time.monotonic()

    def report_progress(sent: int, total: int | None) -> None:
        nonlocal last
        if total and time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            report(f"sent {sent / total:.0%} of {name}")

    return report_progress
