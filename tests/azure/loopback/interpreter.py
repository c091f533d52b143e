"""The node's Python: all that is installed here, but not the project itself.

A job that runs can then only have run from its snapshot.
"""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

HIDDEN = ("mnist-cnn",)


def make(folder: Path, hidden: Iterable[str] = HIDDEN) -> Path:
    """Make an environment in `folder` and return its interpreter.

    Its one .pth file names a folder of links to everything in this environment's site-packages, but for
    what belongs to the distributions `hidden`, whether they are installed as wheels or editable.
    """
    links = folder / "dependencies"
    links.mkdir(parents=True)
    own = _top_level_names(hidden)
    for site in dict.fromkeys(sysconfig.get_path(scheme) for scheme in ("purelib", "platlib")):
        for entry in Path(site).iterdir():
            if entry.name not in own and entry.suffix != ".pth" and not (links / entry.name).exists():
                (links / entry.name).symlink_to(entry)
    home = folder / "environment"
    venv.EnvBuilder(with_pip=False, symlinks=os.name == "posix").create(home)
    python = home / "bin" / "python"
    inside = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(home)})
    (Path(inside) / "dependencies.pth").write_text(f"{links}\n")
    return python


def _top_level_names(distributions: Iterable[str]) -> set[str]:
    """What the distributions have put directly into site-packages."""
    names = set()
    for distribution in distributions:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names |= {file.parts[0] for file in files}
    return names
