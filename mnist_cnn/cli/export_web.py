"""`export --web`: writes the drawing page as static files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import launch, registered
from mnist_cnn.cli import report
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command

MEGABYTE = 1_000_000


def export_web(command: Command, word: str) -> int:
    """Write the page for a model.

    Raises ConfigurationError if another format is asked for, too.
    """
    if not command.flags.get("--web"):
        example = command_line("export", word, "--web", "page")
        raise ConfigurationError("export needs --web FOLDER", f"for example {example}")
    if others := command.flags.keys() - {"--web", "--runtime"}:
        hint = "run export twice, once for each"
        raise ConfigurationError(f"export does not take --web and {min(others)} at once", hint)
    from mnist_cnn.prediction.predictor import load_predictor
    from mnist_cnn.serving.web import export_page

    model = launch.find_model(word, command.overrides, command.config_dirs)
    target = Path(command.flags["--web"])
    runtime = Path(command.flags["--runtime"]) if command.flags.get("--runtime") else None
    files = export_page(load_predictor(model), registered.name_of(model), target, runtime)
    size = sum(file.stat().st_size for file in files)
    if command.as_json:
        names = [str(file.relative_to(target)) for file in files]
        report.print_json({"folder": str(target), "files": names, "bytes": size})
    else:
        report.print_lossy(f"wrote {target}: {len(files)} files, {size / MEGABYTE:.1f} MB", sys.stdout)
        report.print_lossy(f"try it: python -m http.server --directory {target}", sys.stdout)
    return 0
