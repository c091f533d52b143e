"""A user's search, checked before a trial starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import compose, job_maker, launch, records
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.overrides import quoted
from mnist_cnn.search import halving, ranges, study
from mnist_cnn.search.halving import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.config import Config, SearchConfig
    from mnist_cnn.job import Job
    from mnist_cnn.search.ranges import Range

NOT_TAKEN = ("run_dir", "pause_after", "save_h5", "register")
"""Keys and groups that have no meaning for trials."""
FORCE = "force"
"""A key that only applies to trials that are resumed."""


@dataclasses.dataclass(frozen=True)
class Search:
    """A checked search.

    `fixed` are the overrides of all trials; `resumed`, those of trials that are resumed. `resumed` names the
    backend.
    """

    config: SearchConfig
    fixed: tuple[str, ...]
    resumed: tuple[str, ...]
    ranges: tuple[Range, ...]
    config_dirs: tuple[str, ...]
    plan: Plan
    folder: Path
    searched: dict[str, Any]
    network: tuple[Path, str] | None = None
    """The file that builds the network, and its text.

    None if there is none, or if it is searched.
    """

    def check_network(self) -> None:
        """Check that the network's file has not changed.

        Raises ConfigurationError if it has, since the search began.
        """
        if self.network is not None and job_maker.read_network(self.network[0]) != self.network[1]:
            message = f"model.file={self.network[0]} has changed since the search began"
            raise ConfigurationError(message, "undo the change; to search with the new network, search again")

    def load(self, *chosen: str) -> Config:
        """Return a trial's configuration."""
        return compose.load([*self.fixed, *chosen], self.config_dirs)


def prepare(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Search:
    """Check a search before a trial starts; write nothing.

    Raises ConfigurationError, DataError or BackendError.
    """
    study.check_installed()
    fixed, found = ranges.split(overrides, config_dirs)
    own = [text for text in fixed if group(text) == compose.SEARCH]
    config = compose.load_search(own, config_dirs)
    fixed = tuple(text for text in fixed if text not in own)
    for text in fixed:
        if group(text) in NOT_TAKEN:
            raise ConfigurationError(f"search does not take {text}", "leave it out; trials are only compared")
    base = compose.load(fixed, config_dirs)
    resumed = tuple(text for text in fixed if group(text) in ("backend", "track", FORCE))
    if compose.named_backend(resumed) is None:
        resumed = (f"backend={base.backend.name}", *resumed)
    fixed = tuple(text for text in fixed if group(text) != FORCE)
    job = job_maker.job_of(base)
    launch.backend_of(base).check(job)
    if not job.data.validation:
        message = "search needs data.validation, because it must not choose by the test set"
        raise ConfigurationError(message, "keep some training images: data.validation=5000")
    if config.min_epochs > job.train.epochs:
        message = f"search.min_epochs={config.min_epochs}: the job has train.epochs={job.train.epochs}"
        raise ConfigurationError(message, "lower search.min_epochs, or raise train.epochs")
    rungs = halving.rungs(job.train.epochs, config.min_epochs, config.reduction)
    combinations = ranges.combinations(found)
    trials = config.trials if combinations is None else min(config.trials, combinations)
    plan = Plan(trials, rungs, config.reduction)
    fixed = _with_fixed_weights(fixed, job, found)
    searched = {
        "job": job.digest,
        "ranges": " ".join(sorted(each.text for each in found)),
        "rungs": " ".join(map(str, rungs)),
        **{name: str(getattr(config, name)) for name in ("sampler", "reduction", "seed")},
    }
    name = f"search-{records.digest(searched)[:8]}"
    folder = Path(config.dir) if config.dir is not None else Path(base.run.runs_dir) / name
    network = None
    if base.model.file is not None and not {"model", "model.file"} & {each.key for each in found}:
        network = (Path(base.model.file), job.model.source or "")
    search = Search(config, fixed, resumed, found, tuple(config_dirs), plan, folder, searched, network)
    _check_ranges(search, job)
    return search


def _with_fixed_weights(fixed: tuple[str, ...], job: Job, searched: Sequence[Range]) -> tuple[str, ...]:
    """Return overrides that fix the trials' initial weights.

    All trials start from the weights that `train.init` names now.
    """
    if job.train.init is None or {"train", "train.init"} & {each.key for each in searched}:
        return fixed
    weights = {"train.init": quoted(job.train.init), "train.init_sha256": str(job.train.init_sha256)}
    others = (text for text in fixed if text.lstrip("+").partition("=")[0] not in weights)
    return (*others, *(f"{key}={value}" for key, value in weights.items()))


def _check_ranges(search: Search, job: Job) -> None:
    """Check that each range is valid for the job.

    Makes the jobs of its bounds. Raises ConfigurationError or DataError.
    """
    if not search.ranges:
        hint = "for example 'train.learning_rate=tag(log, interval(0.001, 0.1))'"
        raise ConfigurationError("search needs a range of values", hint)
    for each in search.ranges:
        if each.key.partition(".")[0] not in launch.JOB_KEYS:
            raise ConfigurationError(f"{each.text}: {each.key} isn't part of the job", "give it one value")
    for each in search.ranges:
        others = [other.ends()[0] for other in search.ranges if other is not each]
        jobs = [job_maker.job_of(search.load(*others, end)) for end in each.ends()]
        if any(found.data != job.data for found in jobs):
            message = f"{each.text}: trials on different data can't be compared"
            raise ConfigurationError(message, "search among settings of model and train")
        if any(found.train.epochs != job.train.epochs for found in jobs):
            message = f"{each.text}: the search itself decides how many epochs a trial trains"
            raise ConfigurationError(
                message, f"give it one value, for example train.epochs={job.train.epochs}"
            )
        if len({found.digest for found in jobs}) < len(jobs):
            message = f"{each.text}: {each.key} does not decide the weights"
            raise ConfigurationError(message, "give it one value")


def group(override: str) -> str:
    """Return the group or key that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]
