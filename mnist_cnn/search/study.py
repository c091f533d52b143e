"""The trials of a search, in an Optuna study.

The study is a journal file. Optuna draws the settings and keeps them, with each trial's accuracy at the first
rung, which all trials reach. Later accuracies are in the trial's run folder.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnist_cnn.config import Sampler
from mnist_cnn.errors import BackendError, ConfigurationError, storage_error
from mnist_cnn.files import atomic, locks
from mnist_cnn.search import ranges
from mnist_cnn.version import installation_hint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import optuna
    from optuna.distributions import BaseDistribution

    from mnist_cnn.search.ranges import Range

JOURNAL, LOCK = "study.journal", ".lock"
SEARCHED = "searched"
"""The study's attribute that says what is searched.

Another search may not continue it.
"""
DIGITS = 6
"""Significant digits of a drawn number.

They are few, so that people can read and repeat it.
"""
DRAWS = 20
"""How often settings are drawn until they are new.

After that, the next new ones are taken.
"""
ELSEWHERE = "search.dir=FOLDER"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A trial's settings, as overrides, and its end.

    `is_recorded` says whether its end is in the study; `error`, why it failed.
    """

    number: int
    overrides: tuple[str, ...]
    is_recorded: bool = False
    error: str | None = None


def check_installed() -> None:
    """Raise ConfigurationError if Optuna is missing."""
    try:
        import optuna  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        hint = installation_hint("search")
        raise ConfigurationError("search needs Optuna, which isn't installed", hint) from error


@contextmanager
def opened(
    folder: Path, searched: Mapping[str, Any], found: Sequence[Range], sampler: Sampler, seed: int
) -> Iterator[Study]:
    """Create or continue the study in a folder.

    No other process may use it meanwhile.

    Raises:
        ConfigurationError: the folder holds another search or other files, or another process uses it.
        BackendError: the folder cannot be written, or the study is damaged.
    """
    path = folder / JOURNAL
    try:
        if folder.is_dir() and not path.exists() and {file.name for file in folder.iterdir()} - {LOCK}:
            message = f"{folder} holds files, but no search"
            raise ConfigurationError(message, f"choose an empty folder with {ELSEWHERE}")
        atomic.make_folder(folder, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"the search's folder {folder}", ELSEWHERE) from error
    with _locked(folder):
        yield Study(_open(path, searched), found, sampler, seed)


class Study:
    """The trials of one search."""

    def __init__(self, study: optuna.Study, searched: Sequence[Range], sampler: Sampler, seed: int) -> None:
        self._study = study
        self._ranges = searched
        self._distributions = {each.key: _distribution(each) for each in searched}
        self._sampler = sampler
        self._seed = seed

    def trials(self) -> list[Drawn]:
        """Return all trials in the order of drawing."""
        errors = self._study.user_attrs
        return [
            Drawn(
                trial.number,
                _overrides(trial.params),
                trial.state.is_finished(),
                errors.get(_error_key(trial.number)),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.params.keys() == self._distributions.keys()  # or it was being drawn at a kill
        ]

    def draw(self) -> Drawn:
        """Draw a new trial, of settings that were not tried.

        Draws the same one if the search was interrupted here and continues.
        """
        import numpy as np
        import optuna
        from optuna.samplers import RandomSampler, TPESampler

        state = np.random.SeedSequence((self._seed, len(self.trials()))).generate_state(1)
        kind = TPESampler if self._sampler is Sampler.tpe else RandomSampler
        drawing = optuna.create_study(sampler=kind(seed=int(state[0])), direction="maximize")
        drawing.add_trials(self._study.get_trials(deepcopy=False))
        tried = {drawn.overrides for drawn in self.trials()}
        for _ in range(DRAWS):
            params = drawing.ask(self._distributions).params
            if _overrides(params) not in tried:
                break
        params = self._untried(params, tried)
        is_running = optuna.trial.TrialState.RUNNING
        with _translated():
            self._study.add_trial(
                optuna.create_trial(state=is_running, params=params, distributions=self._distributions)
            )
        return self.trials()[-1]

    def _untried(self, params: dict[str, Any], tried: Collection[tuple[str, ...]]) -> dict[str, Any]:
        """Return the first untried settings, from these on.

        Returns the given ones if all were tried.
        """
        combinations = ranges.combinations(self._ranges)
        if combinations is None or len(tried) >= combinations:
            return params
        while _overrides(params) in tried:
            for each in self._ranges:  # like a counter: the first one that has a next value takes it
                following = each.after(params[each.key])
                params = params | {each.key: each.first if following is None else following}
                if following is not None:
                    break
        return params

    def tell(self, number: int, accuracy: float) -> None:
        """Record a trial's accuracy at the first rung.

        A trial that is trained again keeps its first one.
        """
        with _translated():
            self._study.tell(number, accuracy, skip_if_finished=True)

    def fail(self, number: int, error: str) -> None:
        """Record that a trial failed, and would fail again."""
        from optuna.trial import TrialState

        with _translated():
            self._study.set_user_attr(_error_key(number), error)
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with locks.hold(folder / LOCK, 0, ELSEWHERE):
            yield
    except locks.LockTimeout as error:
        message = f"another process is searching in {folder}"
        raise ConfigurationError(
            message, f"wait until it ends, or choose another folder with {ELSEWHERE}"
        ) from error


def _open(path: Path, searched: Mapping[str, Any]) -> optuna.Study:
    """Return the study in a journal.

    Raises ConfigurationError if it is of another search, BackendError if it is damaged.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        _cut_partial_line(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_held_lock()))
        study = optuna.create_study(
            study_name="search", storage=storage, direction="maximize", load_if_exists=True
        )
        before = study.user_attrs.get(SEARCHED)
    except OSError as error:
        raise storage_error(error, str(path), ELSEWHERE) from error
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"{path} is damaged: {what}"
        raise BackendError(message, f"choose another folder with {ELSEWHERE}") from error
    if before is None:
        study.set_user_attr(SEARCHED, dict(searched))
    elif before != searched:
        names = sorted(before.keys() | searched.keys())
        changed = next(name for name in names if before.get(name) != searched.get(name))
        difference = f"{changed} {before.get(changed)}, not {searched.get(changed)}"
        message = f"{path.parent} holds another search: {difference}"
        raise ConfigurationError(message, f"choose another folder with {ELSEWHERE}")
    return study


def _held_lock() -> Any:
    """Return a journal lock that is always free.

    The whole folder is locked.
    """
    from optuna.storages.journal import JournalFileOpenLock

    class Held(JournalFileOpenLock):
        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    return Held("")


def _cut_partial_line(path: Path) -> None:
    """Remove a line that a killed process left unfinished."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, f"the study {error.filename or JOURNAL}") from error


def _distribution(each: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if each.choices:
        return CategoricalDistribution(each.choices)
    if isinstance(each.low, int):
        return IntDistribution(each.low, int(each.high), log=each.is_log, step=int(each.step or 1))
    return FloatDistribution(each.low, each.high, log=each.is_log, step=each.step)


def _overrides(params: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={_text(value)}" for key, value in params.items())


def _text(value: object) -> str:
    return repr(float(f"{value:.{DIGITS}g}")) if isinstance(value, float) else str(value)


def _error_key(number: int) -> str:
    return f"error of trial {number}"
