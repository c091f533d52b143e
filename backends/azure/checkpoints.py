"""A run's checkpoints between its folder here and the datastore, where its nodes keep them.

On the datastore none that exists is ever rewritten: a name has the checksum of its content in it, and the
checksum's own file comes last. One without that file does not exist, and may be sent again.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backends.azure import upload
from mnist_cnn.backends.azure.service import CALL_SECONDS, call_again, say
from mnist_cnn.errors import storage_error
from mnist_cnn.files import atomic
from mnist_cnn.training.checkpoint import KEPT, Checkpoints, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def send(store: Any, place: str, folder: Path) -> None:
    """Send the newest sound checkpoint of a run folder to its place on the datastore, unless it is there.

    Raises:
        BackendError: the datastore does not take it.
    """
    newest = Checkpoints(folder / run_folder.CHECKPOINTS).newest_file()
    if newest is None:
        return
    content = newest.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{place}/{newest.stem[: len('epoch-000000')]}-{sha256[:16]}"
    if f"{name}.npz" in _finished(upload.blobs(store, place)):
        return
    say(f"checkpoint: sending {name}.npz, {len(content):,} bytes")
    upload.send_content(store, f"{name}.npz", content)
    upload.send_content(store, f"{name}.sha256", sha256.encode())


def bring(store: Any, place: str, folder: Path) -> None:
    """Bring the newest sound checkpoints of a run into its folder, and what is newer than they.

    Raises:
        BackendError: the datastore does not give them, or the disk here does not take them.
    """
    there = upload.blobs(store, place)
    finished = _finished(there)
    if not finished:
        say(f"the datastore has no checkpoint of this run in {place}/")
    target = folder / run_folder.CHECKPOINTS
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    sound = 0
    for name in finished:
        if sound == KEPT:
            break
        say(f"checkpoint: bringing {name}, {there[name].bytes:,} bytes")
        seconds = CALL_SECONDS + there[name].bytes / upload.SLOWEST
        path = target / PurePosixPath(name).name
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(_content(store, name, seconds))
        atomic.write_text(
            path.with_suffix(".sha256"),
            _content(store, _checksum(name), CALL_SECONDS).decode(errors="replace"),
        )
        sound += read(path) is not None


def _finished(there: Mapping[str, upload.Blob]) -> list[str]:
    """Return the names of the checkpoints that have their checksum, newest first."""
    return sorted(
        (name for name in there if name.endswith(".npz") and _checksum(name) in there), reverse=True
    )


def _checksum(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".sha256"))


def _content(store: Any, name: str, seconds: float) -> bytes:
    def read() -> bytes:
        blob = store.blob_service.get_blob_client(container=store.container_name, blob=name)
        content: bytes = blob.download_blob().readall()
        return content

    return call_again(f"read {name}", read, seconds)
