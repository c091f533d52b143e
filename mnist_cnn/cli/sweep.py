"""Many jobs from one command line: every one is checked, all are run, and a table ends it, best first."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TextIO

from mnist_cnn import compose, launch
from mnist_cnn.backends import backend_class
from mnist_cnn.cli.display import follow
from mnist_cnn.cli.tables import print_table
from mnist_cnn.errors import ConfigurationError, Interrupted, MnistCnnError, unexpected_error
from mnist_cnn.redaction import redact
from mnist_cnn.terminal import output, signals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnist_cnn.backend import ModelRef, Run
    from mnist_cnn.config import Config
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

POLL_SECONDS = 0.2


@dataclasses.dataclass
class Trial:
    """One job of a sweep and what became of it."""

    settings: str
    config: Config
    job: Job
    is_begun: bool = False
    run: Run | None = None
    watcher: threading.Thread | None = None
    result: Result | None = None
    model: ModelRef | None = None
    error: MnistCnnError | None = None

    @property
    def outcome(self) -> str:
        """Word how it ended, for the table."""
        if self.error is not None:
            return self.error.message
        if self.model is not None:
            return f"registered as {self.model.name} version {self.model.version}"
        if self.result is not None:
            return "completed"
        if self.run is not None:
            return "goes on"
        return "perhaps started" if self.is_begun else "not started"


def run_sweep(overrides: Sequence[str], config_dirs: Sequence[str], program: str, *, as_json: bool) -> int:
    """Run each combination of the swept values; return the first failure's exit code, or 0.

    As many run at a time as the backend takes. One that fails does not stop the others. Ctrl-C ends those
    that are under way and end with their command, and the table tells what there is.

    Raises:
        ConfigurationError, DataError: one of the jobs is not as it must be; none was started then.
    """
    trials = _trials(overrides, config_dirs)
    ends_with_us = launch.ends_with_its_command(trials[0].config)
    with signals.first_signal_only() if ends_with_us else contextlib.nullcontext():
        return _run(trials, program, ends_with_us=ends_with_us, as_json=as_json)


def _run(trials: list[Trial], program: str, *, ends_with_us: bool, as_json: bool) -> int:
    stream = sys.stderr if as_json else sys.stdout
    waiting, under_way = list(trials), list[Trial]()
    places = backend_class(trials[0].config.backend.name)(trials[0].config).parallel_runs or len(trials)
    try:
        while waiting or under_way:
            while waiting and len(under_way) < places:
                trial = waiting.pop(0)
                _say(f"[{trials.index(trial) + 1}/{len(trials)}] {trial.settings}", stream)
                under_way.append(trial)
                _start(trial)
                if trial.run is None and places > 1:  # those behind it would not be taken either
                    waiting.clear()
            if places == 1 and under_way:
                _watch(under_way[0], stream)
            for trial in [trial for trial in under_way if _has_ended(trial, places)]:
                under_way.remove(trial)
                _register(trial)
                _say(f"{trial.settings}: {trial.outcome}", stream)
            time.sleep(POLL_SECONDS if under_way else 0)
    except KeyboardInterrupt:
        if ends_with_us:
            with signals.ignore_signals():
                for trial in under_way:
                    _cancel(trial)
        _print(trials, as_json=as_json)
        _say_aftermath(trials)
        completed = sum(trial.result is not None for trial in trials)
        _say(f"interrupted; {completed} of {len(trials)} completed", sys.stderr)
        _say(f"the runs are kept: {program} list", sys.stderr)
        return Interrupted.exit_code
    _print(trials, as_json=as_json)
    _say_aftermath(trials)
    return next((trial.error.exit_code for trial in trials if trial.error is not None), 0)


def _say(line: str, stream: TextIO) -> None:
    print(line, file=output.lossy(stream), flush=True)


def _trials(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[Trial]:
    """Check every job of the sweep before the first is started."""
    swept = compose.sweep_keys(overrides)
    trials = []
    for job_overrides in compose.expand(overrides):
        config = compose.load(job_overrides, config_dirs)
        settings = " ".join(text for text in job_overrides if text.lstrip("+").partition("=")[0] in swept)
        trials.append(Trial(settings or "as configured", config, launch.job_of(config)))
        launch.check(config, trials[-1].job)
    folders = [trial.config.run.run_dir for trial in trials if trial.config.run.run_dir is not None]
    if len(set(folders)) < len(folders):
        message = f"run_dir={folders[0]} is one folder for {len(trials)} runs"
        raise ConfigurationError(message, "set runs_dir=FOLDER instead: each run makes its own under it")
    return trials


@contextlib.contextmanager
def _failing_alone(trial: Trial) -> Iterator[None]:
    """Keep what ends a trial for the table, whatever it is: it ends no other, and is no success."""
    try:
        yield
    except MnistCnnError as error:
        trial.error = error
    except Exception as error:  # noqa: BLE001 - in a thread nobody else hears it
        if not isinstance(error, OSError):
            _say(redact(traceback.format_exc()), sys.stderr)
        trial.error = unexpected_error(error)


def _start(trial: Trial) -> None:
    ends_with_us = launch.ends_with_its_command(trial.config)
    trial.is_begun = not ends_with_us
    with _failing_alone(trial), signals.defer_signals() if ends_with_us else contextlib.nullcontext():
        trial.run = launch.start(trial.config, trial.job)
    if isinstance(trial.error, Interrupted):  # the whole sweep is meant
        raise KeyboardInterrupt from trial.error


def _watch(trial: Trial, stream: TextIO | None = None) -> None:
    """Wait for the end of a trial's run, and show it to a stream."""
    with _failing_alone(trial):
        if trial.run is not None:
            if stream is not None:
                follow(trial.run, output.lossy(stream))
            trial.result = trial.run.wait()


def _has_ended(trial: Trial, places: int) -> bool:
    """Tell whether a trial's run has ended; of several at a time each is waited for in a thread."""
    if places > 1 and trial.run is not None and trial.watcher is None:
        trial.watcher = threading.Thread(target=_watch, args=(trial,), daemon=True)
        trial.watcher.start()
    return trial.watcher is None or not trial.watcher.is_alive()


def _register(trial: Trial) -> None:
    if trial.result is None or trial.run is None:
        return
    with _failing_alone(trial):
        if trial.config.register.name is not None:
            trial.model = trial.run.register(trial.config.register)


def _cancel(trial: Trial) -> None:
    with _failing_alone(trial):
        if trial.run is not None:
            trial.run.cancel()
            trial.result = trial.run.wait()


def _say_aftermath(trials: Sequence[Trial]) -> None:
    """Say once what each place of these runs costs now; Ctrl-C goes without."""
    runs = {trial.config.backend: trial.run for trial in trials if trial.run is not None}
    with contextlib.suppress(KeyboardInterrupt):
        for run in runs.values():
            for line in run.cost_report():
                _say(line, sys.stderr)


def _print(trials: Sequence[Trial], *, as_json: bool) -> None:
    ranked = sorted(trials, key=lambda trial: -trial.result.accuracy if trial.result else 1.0)
    rows = [
        {
            "settings": trial.settings,
            "accuracy": trial.result.accuracy if trial.result else None,
            "loss": trial.result.loss if trial.result else None,
            "seconds_per_epoch": trial.result.seconds_per_epoch if trial.result else None,
            "outcome": trial.outcome,
            "run": str(trial.run.folder) if trial.run else None,
        }
        for trial in ranked
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    heads = ["settings", "accuracy", "loss", "s per epoch", "outcome", "run"]
    cells = [
        [
            str(row["settings"]),
            f"{row['accuracy']:.2%}" if row["accuracy"] is not None else "",
            f"{row['loss']:.4f}" if row["loss"] is not None else "",
            f"{row['seconds_per_epoch']:.1f}" if row["seconds_per_epoch"] is not None else "",
            str(row["outcome"]),
            str(row["run"] or ""),
        ]
        for row in rows
    ]
    print_table(heads, cells)
