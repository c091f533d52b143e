"""The code that is sent to a node: an allow-list of the installed package's files.

`entry.py` lies at the root beside `mnist_cnn/`, which contains `backends/` and `conf/` as in the wheel. No
data set, no cache and no file of the current folder is sent. Doesn't import the SDK.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import mnist_cnn
from mnist_cnn import backends
from mnist_cnn.config import CONF_DIR
from mnist_cnn.errors import BackendError

ENTRY = "entry.py"
MAX_FILES, MAX_BYTES = 2_000, 300_000_000
"""https://learn.microsoft.com/azure/machine-learning/v1/how-to-save-write-experiment-files"""
MODIFIED = 1_700_000_000
"""Modification time of every file and folder, in seconds since 1970. It is fixed, because the SDK sends a
snapshot again if a time differs."""


@dataclasses.dataclass(frozen=True)
class SentFile:
    """A file to send: its name there, its local path, its length in bytes."""

    name: str
    source: Path
    bytes: int


def files() -> tuple[SentFile, ...]:
    """Return the snapshot's files, by name. Raises BackendError if the service won't accept them."""
    package = Path(mnist_cnn.__file__).parent
    backend_folder = Path(backends.__file__).parent
    found = {ENTRY: backend_folder / "azure" / ENTRY}
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


def write(folder: Path) -> None:
    """Copy the snapshot into an empty folder. Raises BackendError if the disk refuses."""
    try:
        for file in files():
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.source, target)
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (MODIFIED, MODIFIED))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackendError(f"cannot copy the code to {folder}: {reason}", "check that disk") from error
