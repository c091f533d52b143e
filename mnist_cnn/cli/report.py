"""What commands print about runs, results, models and costs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mnist_cnn.cli.table import coloured
from mnist_cnn.errors import Interrupted, MnistCnnError, RunCancelled, RunPaused
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.terminal import output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from mnist_cnn.backend import ModelRef, Run, Status
    from mnist_cnn.config import Config, RegisterConfig
    from mnist_cnn.result import EpochRow, Result


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def print_error(error: MnistCnnError) -> None:
    """Print an error's message and hint on stderr.

    With MNIST_CNN_DEBUG=1, prints the traceback first.
    """
    if output.is_debugging():
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    is_failure = not isinstance(error, Interrupted | RunCancelled | RunPaused)
    prefix = f"{output.styled('error:', 'red', sys.stderr)} " if is_failure else ""
    for line in (f"{prefix}{error.message}", error.hint):
        if line:
            print(line.replace("\n", "\\n"), file=sys.stderr)


def print_lossy(line: str, stream: TextIO) -> None:
    """Print a line at once, ignoring failures."""
    print(line, file=output.lossy(stream), flush=True)


def print_costs(runs: Iterable[Run]) -> None:
    """Print on stderr what these runs' backends cost now.

    Ctrl-C skips the rest.
    """
    with contextlib.suppress(KeyboardInterrupt):
        for run in runs:
            for line in run.cost_report():
                print_lossy(line, sys.stderr)


def print_completed(
    run: Run, result: Result, model: ModelRef | None, config: RegisterConfig, stream: TextIO
) -> None:
    """Print the result, its files and the next commands."""
    from mnist_cnn import run_folder
    from mnist_cnn.result import percent
    from mnist_cnn.terminal.log_stream import epochs_and_time
    from mnist_cnn.tracking import state as tracking_state

    receipt = run_folder.read_receipt(run.folder)
    accuracy = output.styled(percent(result.accuracy), "bold", stream)
    completed = coloured("completed", stream)
    which = saved(result.saved_epoch, len(result.history))
    lines = [f"{completed}: test accuracy {accuracy} after {epochs_and_time(result, receipt)}{which}"]
    lines += [f"{output.styled('warning', 'yellow', stream)}: {warning}" for warning in result.warnings]
    lines += [f"the weights are not comparable with another run's: {change}" for change in result.changes]
    lines.append(f"model and plots are in {run.folder}: {', '.join(result.files)}")
    if model is not None:
        lines.append(registered(model))
    lines += [f"see it:      {view}" for view in tracking_state.views(run.folder)]
    lines.append(f"try it:      {command_line('predict', run.folder, 'IMAGE.png')}")
    if model is None and result.accuracy >= config.min_accuracy:
        name = f"register.name={config.name or 'mnist-cnn'}"
        lines.append(f"register it: {command_line('register', run.folder, name)}")
    print("\n".join(lines), file=stream, flush=True)


def register_model(run: Run, config: Config) -> ModelRef | None:
    """Register a completed run's model if `register.name` is set.

    Raises as `Run.register` does.
    """
    from mnist_cnn.config import Registry

    if config.register.name is None:
        return None
    if config.register.to is Registry.mlflow:
        from mnist_cnn.tracking.registry import register

        return register(run, config.register, config.track)
    return run.register(config.register.name, min_accuracy=config.register.min_accuracy)


def registered(model: ModelRef) -> str:
    how = "registered" if model.is_new else "already registered"
    return f"{how}: {model.name} version {model.version}, {model.location}"


def next_command(run: Run, status: Status) -> str:
    if status == "completed":
        return f"see its result: {command_line('status', run.folder)}"
    return f"resume it: {command_line('resume', run.folder)}"


def describe_run(folder: Path) -> dict[str, Any]:
    """Return what `status` prints, without the status itself."""
    from mnist_cnn import run_folder

    receipt = run_folder.read_receipt(folder)
    try:
        result = run_folder.read_result(folder)
    except MnistCnnError:  # a damaged result is shown as missing
        result = None
    return {
        "run": folder.name,
        "backend": receipt.backend,
        "created": receipt.created,
        "accuracy": result.accuracy if result else None,
        "error": receipt.error,
        "hint": receipt.hint,
    }


def describe_training(folder: Path) -> dict[str, Any]:
    """Return what `status --json` prints about epochs and classes.

    Covers what has been trained so far.
    """
    from mnist_cnn import run_folder

    with contextlib.suppress(MnistCnnError):  # a damaged file is reported by itself
        if (result := run_folder.read_result(folder)) is not None:
            values = dataclasses.asdict(result)
            return {name: values[name] for name in ("history", "saved_epoch", "classes", "warnings")}
    rows: tuple[EpochRow, ...] = ()
    with contextlib.suppress(MnistCnnError):
        rows = run_folder.read_history(folder)
    history = [dataclasses.asdict(row) for row in rows]
    return {"history": history, "saved_epoch": None, "classes": [], "warnings": []}


def describe_scores(folder: Path, training: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the weakest class, the saved or newest epoch's `train.metrics`, and warnings."""
    from mnist_cnn import run_folder
    from mnist_cnn.result import describe_metrics

    if (weakest := weakest_class(training["classes"])) is not None:
        yield weakest
    for row in training["history"][: training["saved_epoch"] or None][-1:]:
        held_out = "held-out"
        with contextlib.suppress(MnistCnnError):
            held_out = run_folder.read_job(folder).data.held_out
        if row["metrics"]:
            yield f"{describe_metrics(row['metrics'])} ({held_out} images, epoch {row['epoch']})"
    yield from (f"warning: {warning}" for warning in training["warnings"])


def weakest_class(classes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a line about the class with least F1.

    Returns None if no class has one.
    """
    from mnist_cnn.result import percent

    scored = [(scores["f1"], number) for number, scores in enumerate(classes) if scores["f1"] is not None]
    if not scored:
        return None
    f1, number = min(scored)
    shares = {name: classes[number][name] for name in ("precision", "recall")}
    parts = [f"{name} {'none' if share is None else percent(share)}" for name, share in shares.items()]
    return f"weakest class: {classes[number].get('name') or number}, F1 {percent(f1)} ({', '.join(parts)})"


def saved(epoch: int | None, epochs: int) -> str:
    """Return for example "; saved: epoch 9".

    Returns "" if that is the last of the `epochs`.
    """
    return "" if epoch in (None, epochs) else f"; saved: epoch {epoch}"


def short_age(created: datetime) -> str:
    """Return a time's age, for example "2d"."""
    from datetime import UTC, datetime

    seconds = max(0, int((datetime.now(UTC) - created).total_seconds()))  # negative if the clock was set back
    units = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    return next((f"{seconds // size}{unit}" for unit, size in units if seconds >= size), "0s")


def age(created: str) -> str:
    """Return an ISO 8601 time's age, like "2 days"."""
    from datetime import UTC, datetime, timedelta

    import humanize

    seconds = datetime.now(UTC) - datetime.fromisoformat(created)
    return humanize.naturaldelta(max(seconds, timedelta()))  # negative if the clock was set back
