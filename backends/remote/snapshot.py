"""What is sent to a node: data and code.

That is the four data files, and an allow-list of the installed package's files. `send` sends either to a
store; a service without one has its own way.

The code is a folder `mnist_cnn/`, which contains `backends/` and `conf/` as in the wheel, and whatever script
a service puts beside it. No cache and no file of the current folder is sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mnist_cnn
from mnist_cnn import backends
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.service import blob_of
from mnist_cnn.config import CONF_DIR
from mnist_cnn.data import datasets
from mnist_cnn.data.download import find_source
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backends.remote.service import Store
    from mnist_cnn.config import DataConfig

MAX_FILES, MAX_BYTES = 2_000, 300_000_000
"""https://learn.microsoft.com/azure/machine-learning/v1/how-to-save-write-experiment-files"""
MODIFIED = 1_700_000_000
"""Modification time of each file, in seconds since 1970.

Folders have it too. The SDK sends a snapshot again if a time differs.
"""


@dataclasses.dataclass(frozen=True)
class SentFile:
    """A file to send.

    `name` is its name there, `source` its local path, `bytes` its length.
    """

    name: str
    source: Path
    bytes: int


def data_files(config: DataConfig) -> tuple[SentFile, ...]:
    """Return the four data files. Raises DataError.

    They have their official names, and are gzipped or raw as they are locally.
    """
    stems = (stems[0] for stems in datasets.STEMS)
    return tuple(
        SentFile(f"{stem}{'.gz' if path.suffix == '.gz' else ''}", path, path.stat().st_size)
        for stem, path in zip(stems, datasets.files(config), strict=True)
    )


def data_folder(config: DataConfig) -> str:
    """Return the store's folder for a data set.

    Different data sets never share one.
    """
    packaged = find_source("mnist")
    if config.digest == packaged.digest:
        return packaged.name
    return config.name if config.dir is None else f"data-{str(config.digest)[:12]}"


def code_folder(snapshot: Sequence[SentFile]) -> str:
    """Return the store's folder for the code.

    Different code never shares one.
    """
    digest = hashlib.sha256()
    for file in snapshot:
        digest.update(f"{file.name}\0{hashlib.sha256(file.source.read_bytes()).hexdigest()}\n".encode())
    return f"mnist-cnn-code/{digest.hexdigest()[:16]}"


def files(**scripts: Path) -> tuple[SentFile, ...]:
    """Return the code's files, by name.

    `scripts` lie beside the package, as NAME.py. Raises BackendError if the files are too many or too large
    for a service.
    """
    package = Path(mnist_cnn.__file__).parent
    backend_folder = Path(backends.__file__).parent
    found = {f"{name}.py": path for name, path in scripts.items()}
    for prefix, root, pattern in (
        ("mnist_cnn", package, "**/*.py"),
        ("mnist_cnn", package, "data/sources.toml"),
        ("mnist_cnn/backends", backend_folder, "**/*.py"),
        ("mnist_cnn/conf", CONF_DIR, "config.yaml"),
        ("mnist_cnn/conf", CONF_DIR, "*/*.yaml"),
    ):
        for path in root.glob(pattern):
            name = path.relative_to(root)
            is_hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
            if path.is_file() and not is_hidden:
                found.setdefault(f"{prefix}/{name.as_posix()}", path)
    snapshot = tuple(SentFile(name, path, path.stat().st_size) for name, path in sorted(found.items()))
    size = sum(file.bytes for file in snapshot)
    if len(snapshot) > MAX_FILES or size > MAX_BYTES:
        limits = f"the service accepts {MAX_FILES}, {MAX_BYTES}"
        message = f"the code is {len(snapshot)} files, {size} bytes; {limits}"
        raise BackendError(message, "install mnist_cnn into a separate folder")
    return snapshot


def write(folder: Path, snapshot: Sequence[SentFile]) -> None:
    """Copy the code to an empty folder. Raises BackendError."""
    try:
        for file in snapshot:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.source, target)
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (MODIFIED, MODIFIED))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackendError(f"cannot copy the code to {folder}: {reason}", "check that disk") from error


def send(store: Store, folder: str, sent: Sequence[SentFile]) -> None:
    """Send files that the store lacks. Raises ServiceError."""
    there = with_retries(lambda: store.list(folder))
    contents = {f"{folder}/{file.name}": file.source.read_bytes() for file in sent}
    missing = {name: content for name, content in contents.items() if there.get(name) != blob_of(content)}
    size = sum(map(len, missing.values()))
    report(f"{folder}: sending {len(missing)} of {len(contents)} files, {size:,} bytes")
    for name, content in missing.items():
        with_retries(partial(store.put, name, content))
