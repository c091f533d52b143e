"""The node's Python: everything that is installed here, without the project itself.

So a job that runs can only have run from its snapshot.
"""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

HIDDEN = ("mnist-cnn",)
UNREGISTERED = ("azureml-train-automl-client", "azureml-train-core", "azureml-pipeline-core")
"""Packages that a node lacks, because it has azureml-core alone; that imports them if it sees metadata.
That slows every job. Only the metadata is hidden, because their code shares a folder."""


def make(folder: Path, hidden: Iterable[str] = HIDDEN) -> Path:
    """Make a virtual environment in `folder` and return its interpreter.

    Its .pth file names a folder of links to everything in this environment's site-packages, except the
    distributions `hidden` (wheels or editable installs).
    """
    links = folder / "dependencies"
    links.mkdir(parents=True)
    absent = _top_level_names(hidden)
    absent |= {name for name in _top_level_names(UNREGISTERED) if name.endswith(".dist-info")}
    for site in dict.fromkeys(sysconfig.get_path(scheme) for scheme in ("purelib", "platlib")):
        for entry in Path(site).iterdir():
            if entry.name not in absent and entry.suffix != ".pth" and not (links / entry.name).exists():
                (links / entry.name).symlink_to(entry)
    home = folder / "environment"
    venv.EnvBuilder(with_pip=False, symlinks=os.name == "posix").create(home)
    python = home / "bin" / "python"
    inside = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(home)})
    (Path(inside) / "dependencies.pth").write_text(f"{links}\n")
    return python


def _top_level_names(distributions: Iterable[str]) -> set[str]:
    """Return what the distributions have put directly into site-packages."""
    names = set()
    for distribution in distributions:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names |= {file.parts[0] for file in files}
    return names
