"""The folders of registered models: NAME/VERSION.

Each version has a model's files and a record that names their run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "model.json"
"""What the folder of a version must hold."""


def version_in(path: Path) -> Path | None:
    """Return the registered version that a folder holds or is.

    Of several it is the newest. Returns None if there is none.
    """
    if (path / RECORD).is_file():
        return path
    versions = [record.parent for record in path.glob(f"*/{RECORD}") if record.parent.name.isdecimal()]
    return max(versions, key=lambda version: int(version.name), default=None)


def name_of(model: Path) -> str:
    """Return what a run, a registered model or a file is called.

    For example `first`, `mnist-cnn/2` or `model.onnx`.
    """
    path = model.resolve()
    is_version = path.name.isdecimal() and (path / RECORD).is_file()
    return f"{path.parent.name}/{path.name}" if is_version else path.name
