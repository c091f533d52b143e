"""The command `export`: writes a model in other formats.

The model is a run's or a registered one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import launch
from mnist_cnn.cli import report
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line
from mnist_cnn.run_folder import MODEL
from mnist_cnn.terminal.output import quiet_stderr

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command

FORMATS = {"--saved-model": "SavedModel", "--litert": "LiteRT"}


def export(command: Command) -> int:
    from mnist_cnn.prediction.predictor import read_model

    command.allow_only("runs_dir")
    run = command.run_argument()
    if "--web" in command.flags or "--runtime" in command.flags:
        from mnist_cnn.cli.export_web import export_web

        return export_web(command, run)
    targets = {flag: _target(flag, path) for flag, path in command.flags.items()}
    if not targets:
        example = command_line("export", run, "--saved-model", "digits")
        hint = f"name one of {', '.join(FORMATS)}, --web, for example {example}"
        raise ConfigurationError("export needs a format", hint)
    folder = launch.find_model(run, command.overrides, command.config_dirs)
    if folder.suffix == ".onnx":
        message = f"export needs a run or a registered model, which has a {MODEL}, not {run}"
        raise ConfigurationError(message, "name the folder of the run or of the model")
    path = folder / MODEL
    read_model(path)  # refuses a damaged one, before TensorFlow is imported
    with quiet_stderr():
        rows = _write(path, targets)
    if command.as_json:
        report.print_json(rows)
        return 0
    for row in rows:
        checked = f"{row['path']}: {row['format']}, checked with {row['images']} images"
        difference = f"its probabilities differ from {MODEL}'s by at most {row['difference']:.1e}"
        report.print_lossy(f"{checked}; {difference}", sys.stdout)
    return 0


def _target(flag: str, path: str) -> Path:
    """Return where a model is written.

    Raises ConfigurationError if something is there.
    """
    if os.path.lexists(path):
        raise ConfigurationError(f"{flag} {path}: it exists", "give a new name, or remove it first")
    return Path(path)


def _write(path: Path, targets: dict[str, Path]) -> list[dict[str, object]]:
    """Write a model.keras in each format; return its rows."""
    from mnist_cnn.training import formats

    write = {"--saved-model": formats.write_saved_model, "--litert": formats.write_litert}
    model = formats.load(path)
    rows: list[dict[str, object]] = []
    for flag, target in targets.items():
        difference = write[flag](model, target)
        checked = {"images": formats.CHECKED_IMAGES, "difference": difference}
        rows.append({"format": FORMATS[flag], "path": str(target), **checked})
    return rows
