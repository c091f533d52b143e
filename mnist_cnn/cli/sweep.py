"""Many jobs from one command line.

All are checked, then run, and a table ranks them by accuracy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from mnist_cnn import compose, job_maker, launch, run_folder
from mnist_cnn.cli import report
from mnist_cnn.cli.display import show
from mnist_cnn.cli.table import Column, print_table
from mnist_cnn.errors import ConfigurationError, Interrupted, MnistCnnError, unexpected_error
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.terminal import output, signals
from mnist_cnn.tracking.recording import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mnist_cnn.backend import Run
    from mnist_cnn.config import Config
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

POLL_SECONDS = 0.2
FORMATS = {"accuracy": ".2%", "loss": ".4f", "seconds_per_epoch": ".1f"}
"""Formats of the table's measured values."""


@dataclasses.dataclass
class Trial:
    """One job of a sweep and its outcome."""

    settings: str
    config: Config
    job: Job
    outcome: str = "not started"
    run: Run | None = None
    watcher: threading.Thread | None = None
    result: Result | None = None
    error: MnistCnnError | None = None


def run_sweep(overrides: Sequence[str], config_dirs: Sequence[str], *, as_json: bool) -> int:
    """Run each combination of the swept values.

    Returns the first failure's exit code, or 0. As many run at a time as the backend accepts. A failure does
    not stop the other trials. Ctrl-C cancels the running ones if they end with their command; the table is
    printed in any case. If one of the jobs is not valid, none is started: raises ConfigurationError or
    DataError.
    """
    trials = _trials(overrides, config_dirs)
    ends_with_us = launch.ends_with_its_command(trials[0].config)
    is_interrupted = False
    with signals.first_signal_only() if ends_with_us else contextlib.nullcontext():
        try:
            _run_all(trials, sys.stderr if as_json else sys.stdout)
        except KeyboardInterrupt:
            is_interrupted = True
            if ends_with_us:
                with signals.ignore_signals():
                    _cancel_running(trials)
        _print_table(trials, as_json=as_json)
        runs = {trial.config.backend: trial.run for trial in trials if trial.run is not None}
        if is_interrupted:  # reported first, because the costs may take long
            completed = sum(trial.result is not None for trial in trials)
            report.print_lossy(f"interrupted; {completed} of {len(trials)} completed", sys.stderr)
            report.print_lossy(f"the runs are kept: {command_line('list')}", sys.stderr)
        report.print_costs(runs.values())
        if is_interrupted:
            return Interrupted.exit_code
    return next((trial.error.exit_code for trial in trials if trial.error is not None), 0)


def plan_sweep(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[dict[str, str]]:
    """Return each job's swept settings and plan.

    Raises as `run_sweep` does; downloads and starts nothing.
    """
    return [
        {"settings": settings, **dict(launch.plan_of(config).lines)}
        for settings, config in _configs(overrides, config_dirs)
    ]


def _trials(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[Trial]:
    """Return the sweep's jobs, all checked."""
    trials = []
    for settings, config in _configs(overrides, config_dirs):
        trials.append(Trial(settings, config, job_maker.job_of(config)))
        launch.backend_of(config).check(trials[-1].job)
    return trials


def _configs(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[tuple[str, Config]]:
    """Return each job's swept settings and configuration."""
    swept = compose.sweep_keys(overrides)
    configs = []
    for job_overrides in compose.expand(overrides, config_dirs):
        settings = " ".join(text for text in job_overrides if text.lstrip("+").partition("=")[0] in swept)
        configs.append((redact(settings) or "as configured", compose.load(job_overrides, config_dirs)))
    folders = [config.run.run_dir for _, config in configs if config.run.run_dir is not None]
    if len(set(folders)) < len(folders):
        message = f"run_dir={folders[0]} is one folder for {len(configs)} runs"
        raise ConfigurationError(message, "set runs_dir=FOLDER instead; each run makes its own folder there")
    return configs


def _run_all(trials: Sequence[Trial], stream: TextIO) -> None:
    """Run the trials.

    As many run at a time as their backend accepts. Raises KeyboardInterrupt.
    """
    limit = launch.backend_of(trials[0].config).parallel_runs or len(trials)
    waiting, running = list(trials), list[Trial]()
    while waiting or running:
        while waiting and len(running) < limit:
            trial = waiting.pop(0)
            number = len(trials) - len(waiting)
            report.print_lossy(f"[{number}/{len(trials)}] {trial.settings}", stream)
            running.append(trial)
            _start(trial)
            if trial.run is None and limit > 1:  # the backend would refuse the remaining ones too
                waiting.clear()
        if limit == 1:
            _watch(running[0], stream)
        for trial in [trial for trial in running if _has_ended(trial, limit)]:
            running.remove(trial)
            _register(trial)
            report.print_lossy(f"{trial.settings}: {trial.outcome}", stream)
        time.sleep(POLL_SECONDS if running else 0)


@contextlib.contextmanager
def _record_failure(trial: Trial) -> Iterator[None]:
    """Record any exception as the trial's failure."""
    try:
        yield
    except MnistCnnError as error:
        trial.error = error
    except Exception as error:  # noqa: BLE001 - nothing above a thread would catch it
        trial.error = unexpected_error(error)
        if trial.error.exit_code == MnistCnnError.exit_code:
            report.print_lossy(redact(traceback.format_exc()), sys.stderr)
    if trial.error is not None:
        trial.outcome = trial.error.message


def _start(trial: Trial) -> None:
    ends_with_us = launch.ends_with_its_command(trial.config)
    if not ends_with_us:
        trial.outcome = "may have started"
    with _record_failure(trial), signals.defer_signals() if ends_with_us else contextlib.nullcontext():
        trial.run = launch.start(trial.config, trial.job)
        trial.outcome = "still running"
    if isinstance(trial.error, Interrupted):  # Ctrl-C is meant for the whole sweep
        raise KeyboardInterrupt from trial.error


def _watch(trial: Trial, stream: TextIO | None = None) -> None:
    """Wait for the end of a trial's run.

    Shows it on the stream, if given.
    """
    with _record_failure(trial):
        if trial.run is not None:
            with recorded(trial.run):
                if stream is not None:
                    show(trial.run, output.lossy(stream))
                trial.result = trial.run.wait()
            trial.outcome = "completed"


def _has_ended(trial: Trial, limit: int) -> bool:
    """Return whether a trial's run has ended.

    If several run at a time, a thread waits for each.
    """
    if limit > 1 and trial.run is not None and trial.watcher is None:
        trial.watcher = threading.Thread(target=_watch, args=(trial,), daemon=True)
        trial.watcher.start()
    return trial.watcher is None or not trial.watcher.is_alive()


def _register(trial: Trial) -> None:
    with _record_failure(trial):
        if trial.result is not None and trial.run is not None:
            model = report.register_model(trial.run, trial.config)
            if model is not None:
                trial.outcome = f"registered as {model.name} version {model.version}"


def _cancel_running(trials: Sequence[Trial]) -> None:
    for trial in trials:
        if trial.run is not None and trial.result is None and trial.error is None:
            with _record_failure(trial):
                trial.run.cancel()
                _watch(trial)


def _print_table(trials: Sequence[Trial], *, as_json: bool) -> None:
    ranked = sorted(trials, key=lambda trial: -trial.result.accuracy if trial.result else 1.0)
    rows: list[dict[str, Any]] = []
    for trial in ranked:
        measured = {name: getattr(trial.result, name, None) for name in FORMATS}
        folder = str(trial.run.folder) if trial.run else None
        rows.append({"settings": trial.settings, **measured, "outcome": trial.outcome, "run": folder})
    if as_json:
        report.print_json(rows)
        return
    print_table(
        [
            Column("settings", [row["settings"] for row in rows], may_be_cut=True),
            Column("accuracy", _formatted(rows, "accuracy")),
            Column("loss", _formatted(rows, "loss"), extra=True),
            Column("s per epoch", _formatted(rows, "seconds_per_epoch"), extra=True),
            Column("outcome", [row["outcome"] for row in rows], may_be_cut=True),
            Column("run", [row["run"] or "" for row in rows], short=_short_names(ranked)),
        ]
    )


def _formatted(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return ["" if row[name] is None else format(row[name], FORMATS[name]) for row in rows]


def _short_names(trials: Sequence[Trial]) -> list[str]:
    """Return what `status` finds the trials' runs by."""
    folders = [trial.run.folder if trial.run else None for trial in trials]
    runs_dirs = {folder.parent for folder in folders if folder is not None}
    names = run_folder.short_names({path.name for runs_dir in runs_dirs for path in runs_dir.glob("*")})
    return [
        "" if folder is None else trial.config.run.run_dir or names.get(folder.name, folder.name)
        for trial, folder in zip(trials, folders, strict=True)
    ]
