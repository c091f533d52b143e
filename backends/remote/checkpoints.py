"""Copies checkpoints between a run folder and the store.

A checkpoint in the store is never overwritten: its name contains the checksum of its content. The
`.sha256` file is sent last. A checkpoint without one is incomplete, and may be sent again.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.service import blob_of
from mnist_cnn.errors import storage_error
from mnist_cnn.files import atomic
from mnist_cnn.training import initial_weights
from mnist_cnn.training.checkpoint import KEPT, Checkpoints, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Blob, Store


def send(store: Store, prefix: str, folder: Path) -> None:
    """Send the initial weights and newest intact checkpoint.

    Skips what the store has. Raises BackendError.
    """
    kept = folder / run_folder.CHECKPOINTS
    initial, newest = kept / initial_weights.FILE, Checkpoints(kept).newest_file()
    if initial.is_file():
        content, name = initial.read_bytes(), f"{prefix}/{initial.name}"
        if with_retries(lambda: store.list(prefix)).get(name) != blob_of(content):
            report(f"initial weights: sending {name}, {len(content):,} bytes")
            with_retries(lambda: store.put(name, content))
    if newest is not None:
        _send_checkpoint(store, prefix, newest)


def _send_checkpoint(store: Store, prefix: str, newest: Path) -> None:
    content = newest.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{prefix}/{newest.stem[: len('epoch-000000')]}-{sha256[:16]}"
    if f"{name}.npz" in _complete(with_retries(lambda: store.list(prefix))):
        return
    report(f"checkpoint: sending {name}.npz, {len(content):,} bytes")
    with_retries(lambda: store.put(f"{name}.npz", content))
    with_retries(lambda: store.put(f"{name}.sha256", sha256.encode()))


def download(store: Store, prefix: str, folder: Path) -> None:
    """Download the newest sound checkpoints. Raises BackendError."""
    blobs = with_retries(lambda: store.list(prefix))
    complete = _complete(blobs)
    if not complete:
        report(f"checkpoints: none in {prefix}/ of the store")
    target = folder / run_folder.CHECKPOINTS
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    sound = 0
    for name in complete:
        if sound == KEPT:
            break
        report(f"checkpoint: downloading {name}, {blobs[name].bytes:,} bytes")
        path = target / PurePosixPath(name).name
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(_content(store, name, blobs))
        checksum = _content(store, _checksum_name(name), blobs)
        atomic.write_text(path.with_suffix(".sha256"), checksum.decode(errors="replace"))
        sound += read(path) is not None


def stored(store: Store, prefix: str) -> dict[str, Blob]:
    """Return the store's checkpoint files. Raises ServiceError.

    Some may be incomplete.
    """
    return with_retries(lambda: store.list(prefix))


def remove(store: Store, names: Iterable[str]) -> None:
    """Remove files, newer checkpoints last. Raises ServiceError."""
    for name in sorted(names):
        with_retries(partial(store.remove, name))


def _complete(blobs: Mapping[str, Blob]) -> list[str]:
    """Return checkpoints with a checksum file, newest first."""
    complete = (name for name in blobs if name.endswith(".npz") and _checksum_name(name) in blobs)
    return sorted(complete, reverse=True)


def _checksum_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".sha256"))


def _content(store: Store, name: str, blobs: Mapping[str, Blob]) -> bytes:
    return with_retries(lambda: store.get(name, blobs[name].bytes))
