"""The command `list`: a filtered, sorted table of runs.

It reads three files of each run once, and asks backends only for runs that have not ended. It doesn't check
checksums; `status` does, for one run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import shlex
import sys
import textwrap
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_cnn import compose, launch, overrides, records, run_creation, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli import filters, report
from mnist_cnn.cli.filters import DAMAGED, NOT_STARTED
from mnist_cnn.cli.table import Column, print_table, terminal_width
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.files import safe_read
from mnist_cnn.hints import command_line
from mnist_cnn.result import percent
from mnist_cnn.settings import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mnist_cnn.cli.command import Command
    from mnist_cnn.overrides import Settings
    from mnist_cnn.receipt import Receipt

SUMMARIZED = ("accuracy", "loss", "training_seconds", "weights_sha256", "metrics")
SORT, REVERSE, LIMIT = "--sort", "--reverse", "--limit"
MOST_DIGITS = 10
SHORT_DIGEST = 4


@dataclasses.dataclass(frozen=True)
class Measured:
    """What `list` shows of an epoch."""

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `list` shows of result.json."""

    accuracy: float
    loss: float
    training_seconds: float
    weights_sha256: str
    history: tuple[Measured, ...] = ()
    saved_epoch: int | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the saved epoch by name."""
        rows = self.history[: self.saved_epoch or len(self.history)]
        return rows[-1].metrics if rows else {}


@dataclasses.dataclass(frozen=True)
class Listed:
    """A run of the list.

    Without a sound receipt, `receipt` is None and `error` says why.
    """

    name: str
    status: str
    created: datetime
    receipt: Receipt | None = None
    settings: Settings | None = None
    summary: Summary | None = None
    error: str | None = None

    def as_mapping(self) -> dict[str, Any]:
        """Return the run as `list --json` prints it."""
        receipt, summary = self.receipt, self.summary
        return {
            "run": self.name,
            "status": self.status,
            "backend": receipt.backend if receipt else "",
            "created": receipt.created if receipt else self.created.isoformat(timespec="microseconds"),
            "digest": receipt.job_digest if receipt else None,
            "settings": self.settings.shown if self.settings else None,
            **{name: getattr(summary, name, None) for name in SUMMARIZED},
            "error": self.error,
            "hint": receipt.hint if receipt else None,
        }


SORTED_BY: dict[str, tuple[Callable[[Listed], Any], bool]] = {
    "created": (lambda run: run.created, True),
    "accuracy": (lambda run: run.summary and run.summary.accuracy, True),
    "loss": (lambda run: run.summary and run.summary.loss, False),
    "seconds": (lambda run: run.summary and run.summary.training_seconds, False),
    "run": (lambda run: run.name, False),
    "status": (lambda run: run.status, False),
    "backend": (lambda run: run.receipt and run.receipt.backend, False),
}
"""Keys for `--sort`, and whether the largest is first.

`--sort` takes settings too.
"""


def list_runs(command: Command) -> int:
    """Print the runs that match KEY=VALUE filters."""
    command.refuse_arguments()
    own = [text for text in command.overrides if text.partition("=")[0].strip("+") == "runs_dir"]
    runs_dir = compose.runs_dir(own, command.config_dirs)
    given = [text for text in command.overrides if text not in own]
    wanted = filters.parse(given, runs_dir)
    order = command.flags.get(SORT, "created")
    filters.check_key(order, SORTED_BY, f"{SORT}={order}")
    limit = _limit(command.flags)
    gc.disable()  # nearly all that is read stays; to look for garbage in it takes a tenth of the time
    try:
        found = list(_everything(runs_dir, wanted))
    finally:
        gc.enable()
    runs = _sorted(found, order, reverse=REVERSE in command.flags)[:limit]
    if command.as_json:
        report.print_json([run.as_mapping() for run in runs])
    elif runs:
        _print(runs, runs_dir)
        _print_notes(runs, runs_dir)
    elif wanted:
        print(f"no run under {runs_dir} matches {' '.join(given)}")
    else:
        print(f"no runs under {runs_dir}\nstart one: {command_line('backend=local')}")
    return 0


def _limit(flags: Mapping[str, str]) -> int | None:
    """Return the most runs to show, or None.

    Raises ConfigurationError.
    """
    text = flags.get(LIMIT)
    if text is None:
        return None
    if not (text.isdecimal() and len(text) < MOST_DIGITS and int(text)):
        hint = f"for example {command_line('list', f'{LIMIT}=10')}"
        raise ConfigurationError(f"{LIMIT}={text}: must be a whole number, 1 or more", hint)
    return int(text)


# What is listed


def _everything(runs_dir: str, wanted: filters.Wanted) -> Iterator[Listed]:
    """Yield what lies under `runs_dir` and matches."""
    statuses = wanted.get(filters.STATUS, filters.STATUSES)
    receipts, others = run_folder.scan(runs_dir)
    chosen = {}
    for folder, receipt in receipts.items():
        found = overrides.read(folder)
        if filters.match(wanted, receipt, found):
            chosen[folder] = found
    for folder, status in launch.statuses({folder: receipts[folder] for folder in chosen}).items():
        receipt = receipts[folder]
        with contextlib.suppress(BackendError):  # another process has removed it meanwhile
            if not receipt.status.is_final:
                receipt = run_folder.read_receipt(folder)  # asking for the status may have changed it
            if status in statuses:
                yield _listed(folder, receipt, status, chosen[folder])
    for folder in others:
        other = _other(folder)
        if other and filters.match(wanted, None, other.settings) and other.status in statuses:
            yield other


def _listed(folder: Path, receipt: Receipt, status: Status, found: Settings | None) -> Listed:
    created = datetime.fromisoformat(receipt.created)
    return Listed(folder.name, status.value, created, receipt, found, _summary(folder), receipt.error)


def _other(folder: Path) -> Listed | None:
    """Return a folder whose receipt is missing or damaged.

    Returns None if it is something else.
    """
    status, error = NOT_STARTED, None
    try:
        if (folder / run_folder.RECEIPT).is_file():
            status = DAMAGED
            run_folder.read_receipt(folder)
            return None  # just written
        if not run_creation.is_unstarted(folder):
            return None
    except BackendError as damage:
        error = damage.message
    try:
        changed = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    except OSError:  # removed meanwhile
        return None
    return Listed(folder.name, status, changed, settings=overrides.read(folder), error=error)


def _summary(folder: Path) -> Summary | None:
    """Return what result.json says.

    Returns None if the file is missing or isn't a result.
    """
    try:
        text = safe_read.read_bytes(f"{folder}/{run_folder.RESULT}", safe_read.HISTORY_BYTES)
        return msgspec.json.decode(text, type=Summary)
    except (OSError, *records.NOT_SOUND):
        return None


def _sorted(runs: Sequence[Listed], key: str, *, reverse: bool) -> list[Listed]:
    """Return the runs in order, those without value last."""
    value, largest_first = SORTED_BY.get(key, (lambda run: run.settings and run.settings.values[key], False))
    newest = sorted(runs, key=lambda run: run.created, reverse=True)
    known = [run for run in newest if value(run) is not None]
    unknown = [run for run in newest if value(run) is None]
    try:
        known.sort(key=value, reverse=largest_first is not reverse)
    except TypeError:  # a job.json that was changed by hand
        known.sort(key=lambda run: written(value(run)), reverse=reverse)
    return known + unknown


# The table


def _print(runs: Sequence[Listed], runs_dir: str) -> None:
    names = run_folder.short_names(os.listdir(runs_dir))  # noqa: PTH208 - faster than paths
    digests = _short_digests(runs)
    backends = [run.receipt.backend.rpartition(":")[2] if run.receipt else "" for run in runs]
    columns = [
        Column("run", [run.name for run in runs], short=[names.get(run.name, run.name) for run in runs]),
        Column("status", [run.status for run in runs]),
        Column("accuracy", [_accuracy(run) for run in runs]),
        *_metrics(runs),
        Column("age", [report.short_age(run.created) for run in runs], extra=True),
        Column("job", [digests[run.receipt.job_digest] if run.receipt else "" for run in runs], extra=True),
        Column("backend", backends, extra=True),
        Column("settings", [str(run.settings or "") for run in runs], may_be_cut=True),
    ]
    only_here = {*backends} <= {"local", ""}
    print_table([column for column in columns if not (only_here and column.head == "backend")])


def _metrics(runs: Sequence[Listed]) -> list[Column]:
    """Return a column for each metric that a run has measured."""
    measured = [run.summary.metrics if run.summary else {} for run in runs]
    return [
        Column(name, [f"{values[name]:.4f}" if name in values else "" for values in measured], extra=True)
        for name in dict.fromkeys(chain(*measured))
    ]


def _accuracy(run: Listed) -> str:
    if run.summary is not None:
        return percent(run.summary.accuracy)
    return DAMAGED if run.status == Status.completed else ""


def _short_digests(runs: Sequence[Listed]) -> dict[str, str]:
    """Return the shortest distinct beginnings of the job digests.

    All have the same length, at least SHORT_DIGEST.
    """
    digests = {run.receipt.job_digest for run in runs if run.receipt}
    length = SHORT_DIGEST
    while len({digest[:length] for digest in digests}) < len(digests):
        length += 1
    return {digest: digest[:length] for digest in digests}


def _print_notes(runs: Sequence[Listed], runs_dir: str) -> None:
    """Print why runs failed, and what to do.

    Also says what to do about folders whose run never started.
    """
    reasons = {
        run.name: run.error or "its process is gone"
        for run in runs
        if run.status in (Status.failed, Status.lost, DAMAGED)
    }
    if reasons:
        print()
    for name, reason in reasons.items():
        print(textwrap.shorten(f"{name}: {reason}", terminal_width() or sys.maxsize, placeholder=" ..."))
    if reasons:
        print(f"what to do: {command_line('status', 'RUN')}")
    unstarted = next((run.name for run in runs if run.status == NOT_STARTED), None)
    if unstarted is not None:
        where = shlex.quote(f"run_dir={runs_dir}/{unstarted}")
        print(f"not started: its command was killed; repeat that command with {where}, or remove the folder")
