"""The command `compare`: what differs between runs.

It compares settings, environment and result, and draws the curves. Of a run that has not completed, or is
damaged, it shows what its folder knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from itertools import chain, filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import launch, overrides, run_folder
from mnist_cnn.cli import filters, report, table
from mnist_cnn.cli.table import Column, terminal_width
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError
from mnist_cnn.hints import command_line, see_the_runs
from mnist_cnn.result import Result, percent
from mnist_cnn.settings import written
from mnist_cnn.training.metrics import METRICS
from mnist_cnn.training.runtime import VARIABLES, Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnist_cnn.cli.command import Command
    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import EpochRow

PICTURE, DEFAULT_PICTURE = "--picture", "comparison.png"
UNKNOWN, NONE = "unknown", "-"
SHORT = 12
"""Characters of a hash that are shown."""
RUN_WIDTH = 12
"""Least columns of a terminal for each run."""
HASHES = ("data.digest", "model.source", "train.init_sha256", "job", "fingerprint", "weights_sha256")
SHARES = ("accuracy", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What is known of a run."""

    folder: Path
    status: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    outcome: Mapping[str, Any]
    result: Result | None
    history: tuple[EpochRow, ...]


def compare(command: Command) -> int:
    """Print what differs between runs.

    Also prints whether their weights are equal, and where their curves are.
    """
    command.allow_only("runs_dir")
    picture = Path(command.flags.get(PICTURE, DEFAULT_PICTURE))
    if picture.suffix != ".png":
        message = f"{PICTURE}={picture}: the name must end in .png"
        raise ConfigurationError(message, f"for example {PICTURE}={DEFAULT_PICTURE}")
    found = [launch.find(word, command.overrides, command.config_dirs) for word in command.words if word]
    folders = {folder.resolve(): folder for folder in found}  # each once
    if len(folders) < 2:  # noqa: PLR2004 - there is nothing to compare
        hint = f"for example {command_line('compare', 'latest', 'RUN')}; {see_the_runs()}"
        raise ConfigurationError("compare needs at least two different RUNs", hint)
    runs = _read(list(folders.values()))
    labels = _labels([run.folder for run in runs])
    differing = {
        "settings": _differing([run.settings for run in runs]),
        "environment": _differing([run.environment for run in runs]),
        "result": _differing([run.outcome for run in runs]),
    }
    notes = _about_weights(runs, labels)
    drawn = _draw(runs, labels, picture)
    if command.as_json:
        named = [{"run": run.folder.name, "folder": str(run.folder), "status": run.status} for run in runs]
        report.print_json({"runs": named, **differing, "notes": notes, "picture": drawn})
        return 0
    _print(labels, differing)
    for note in notes:
        print(note)
    print(f"the curves are in {drawn}" if drawn else "no run has finished an epoch, so there are no curves")
    return 0


# What is known of a run


def _read(folders: Sequence[Path]) -> list[Compared]:
    receipts: dict[Path, Receipt] = {}
    for folder in folders:
        with contextlib.suppress(BackendError):  # damaged
            receipts[folder] = run_folder.read_receipt(folder)
    statuses = {folder: status.value for folder, status in launch.statuses(receipts).items()}
    for folder in receipts:
        with contextlib.suppress(BackendError):  # asking for the status may have changed it
            receipts[folder] = run_folder.read_receipt(folder)
    return [_known(folder, receipts.get(folder), statuses.get(folder)) for folder in folders]


def _known(folder: Path, receipt: Receipt | None, status: str | None) -> Compared:
    """Return what a folder knows."""
    job = overrides.read(folder)
    history: tuple[EpochRow, ...] = ()
    result = damage = None
    try:
        history = run_folder.read_history(folder)
        result = run_folder.read_result(folder)
    except MnistCnnError as error:
        damage = error.message
    values = dict(job.values) if job else {}
    if values.get("model.source") is not None:
        values["model.source"] = hashlib.sha256(values["model.source"].encode()).hexdigest()
    environment: dict[str, Any] = {}
    if receipt is not None:
        own = {f"backend.{name}": value for name, value in receipt.backend_settings.items()}
        environment = {"backend": receipt.backend, **own, **receipt.versions}
    status = status or filters.DAMAGED
    saved = min((result.saved_epoch if result else None) or len(history), len(history))
    last = history[saved - 1] if history and (result is None or values.get("data.validation")) else None
    outcome = {
        "status": status,
        "job": receipt.job_digest if receipt else None,
        "epochs": len(history),
        "val_accuracy": last.val_accuracy if last else None,
        "val_loss": last.val_loss if last else None,
        **dict.fromkeys(METRICS),
        **(history[saved - 1].metrics if history else {}),
        **_outcome(result),
        "error": damage or (receipt.error if receipt else "its receipt is damaged"),
    }
    return Compared(folder, status, values, environment | _environment(result), outcome, result, history)


def _environment(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {}
    return {
        "precision": result.precision,
        "device": result.device,
        "processor": result.processor,
        "threads": result.threads,
        **result.versions,
        **{name: result.environment.get(name) for name in VARIABLES},
        "fingerprint": result.fingerprint,
    }


def _outcome(result: Result | None) -> dict[str, Any]:
    names = ("saved_epoch", "accuracy", "loss", "seconds_per_epoch", "training_seconds", "weights_sha256")
    values = {name: getattr(result, name, None) for name in names}
    return {**values, "changes": (result and ", ".join(result.changes)) or None}


# What differs


def _differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each run's values of the keys that differ.

    Unknown values are not compared.
    """
    rows = {key: [column.get(key, UNKNOWN) for column in columns] for key in dict.fromkeys(chain(*columns))}
    return {
        key: values
        for key, values in rows.items()
        if len({repr(value) for value in values if value is not UNKNOWN}) > 1
    }


def _about_weights(runs: Sequence[Compared], labels: Sequence[str]) -> list[str]:
    """Return lines that say which weights are equal.

    They say why equal jobs have different weights.
    """
    done = [(label, run.result) for label, run in zip(labels, runs, strict=True) if run.result is not None]
    if len(done) < 2:  # noqa: PLR2004 - there is nothing to compare
        return []
    by_weights: dict[str, list[str]] = {}
    for label, result in done:
        by_weights.setdefault(result.weights_sha256, []).append(label)
    if len(by_weights) == 1:
        return [
            "the weights are equal"
            if len(done) == len(runs)
            else f"equal weights: {', '.join(label for label, _ in done)}"
        ]
    lines = [f"equal weights: {', '.join(same)}" for same in by_weights.values() if len(same) > 1]
    firsts: dict[str, tuple[str, Result]] = {}
    for label, result in done:
        other, before = firsts.setdefault(result.job_digest, (label, result))
        if result.weights_sha256 != before.weights_sha256:
            lines.append(f"{other} and {label} are equal jobs with different weights: {_why(before, result)}")
    return lines or ["the weights differ, as the jobs do"]


def _why(before: Result, now: Result) -> str:
    """Return why two equal jobs have different weights."""
    names = [field.name for field in dataclasses.fields(Runtime)]
    one, other = (Runtime(**{name: getattr(result, name) for name in names}) for result in (before, now))
    reasons = [*one.changes_to(other)]
    reasons += [f"resumed with force=true: {change}" for change in (*before.changes, *now.changes)]
    return "; ".join(reasons) or "nothing that is recorded differs, so a later step computed other numbers"


def _draw(runs: Sequence[Compared], labels: Sequence[str], path: Path) -> str | None:
    """Draw the curves; return their path, or None."""
    curves = [(label, run.history) for label, run in zip(labels, runs, strict=True) if run.history]
    if not curves:
        return None
    from mnist_cnn.training import plots

    plots.comparison(curves, path)
    return str(path)


# The table


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return short names that identify the runs, or the shortest different ends of their paths."""
    paths = [folder.resolve() for folder in folders]
    names = run_folder.short_names({path.name for path in paths})
    deepest = max(len(path.parts) for path in paths)
    longer = ([str(Path(*path.parts[-count:])) for path in paths] for count in range(1, deepest + 1))
    ends = [names[path.name] for path in paths]
    return next(labels for labels in (ends, *longer) if len(set(labels)) == len(paths))


def _print(labels: Sequence[str], differing: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Print the rows of each part, with a column for each run.

    On a terminal too narrow for all runs, prints several tables.
    """
    keys = [key for part in differing.values() for key in part]
    rows = [_cells(key, values) for part in differing.values() for key, values in part.items()]
    width = terminal_width()
    room = len(labels) if width is None else (width - max(map(len, keys), default=0)) // RUN_WIDTH
    for first in range(0, len(labels), max(room, 1)):
        runs = range(first, min(first + max(room, 1), len(labels)))
        columns = [Column(labels[run], [cells[run] for cells in rows], may_be_cut=True) for run in runs]
        heads, rule, *lines = table.lines([Column("", keys), *columns], width)
        print(heads, rule, sep="\n")
        for part in filter(None, differing.values()):
            print(*lines[: len(part)], "", sep="\n")
            del lines[: len(part)]


def _cells(key: str, values: Sequence[Any]) -> list[str]:
    """Return a row's values as they are shown.

    Of processors, shows only the features that differ.
    """
    if key == "processor":
        words = [str(value or "").split() for value in values]
        common = set(words[0]).intersection(*words[1:])
        return [" ".join(filterfalse(common.__contains__, each)) or NONE for each in words]
    return [_cell(key, value) for value in values]


def _cell(key: str, value: object) -> str:
    if value is None and "." not in key:
        return NONE
    if key in HASHES:
        return str(value)[:SHORT]
    if key in SHARES and isinstance(value, float):
        return percent(value)
    return f"{value:.4g}" if isinstance(value, float) else written(value)
