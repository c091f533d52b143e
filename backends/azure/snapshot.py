"""What is sent to the node: an allow-list of files, read from the package that is installed here.

`entry.py` stands at the root, `mnist_cnn/` beside it with `backends/` and `conf/` in it, as in the wheel.
No data set, no cache, nothing of the current folder. Pure but for `write`; knows no SDK.
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
"""When every file and folder was modified, in seconds since the epoch: a fixed time, for the client counts
what has another one as changed and sends it again."""
PACKAGE_FILES = ("**/*.py", "data/sources.toml")
BACKEND_FILES = ("**/*.py",)
CONF_FILES = ("config.yaml", "*/*.yaml")
"""What is sent of each of the three folders: code, the table of data sets, the choices in their groups."""


@dataclasses.dataclass(frozen=True)
class SnapshotFile:
    """A file of the snapshot: its name there, where it is here, its length in bytes."""

    name: str
    source: Path
    bytes: int


def files() -> tuple[SnapshotFile, ...]:
    """Return the snapshot's files, by name.

    Raises:
        BackendError: the service would not take so many or so large ones.
    """
    package = Path(mnist_cnn.__file__).parent
    backend_folder = Path(backends.__file__).parent
    found = {ENTRY: backend_folder / "azure" / ENTRY}
    for root, prefix, allowed in (
        (package, "mnist_cnn", PACKAGE_FILES),
        (backend_folder, "mnist_cnn/backends", BACKEND_FILES),
        (CONF_DIR, "mnist_cnn/conf", CONF_FILES),
    ):
        for path in _found(root, allowed):
            found.setdefault(f"{prefix}/{path.relative_to(root).as_posix()}", path)
    snapshot = tuple(SnapshotFile(name, path, path.stat().st_size) for name, path in sorted(found.items()))
    size = sum(file.bytes for file in snapshot)
    if len(snapshot) > MAX_FILES or size > MAX_BYTES:
        message = (
            f"the code is {len(snapshot)} files of {size} bytes; the service takes {MAX_FILES} of {MAX_BYTES}"
        )
        raise BackendError(message, "install mnist_cnn into a folder of its own")
    return snapshot


def write(folder: Path) -> None:
    """Copy the snapshot into an empty folder. Raises BackendError where that cannot be done."""
    try:
        for file in files():
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.source, target)
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (MODIFIED, MODIFIED))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackendError(f"cannot copy the code to {folder}: {reason}", "look at that disk") from error


def _found(root: Path, allowed: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that may be sent, and not what Python or an editor left among them."""
    return [
        path
        for pattern in allowed
        for path in root.glob(pattern)
        if path.is_file()
        and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
    ]
