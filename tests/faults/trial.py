"""Tests one kind of bad file, input by input, in a separate process that may crash, hang or grow.

The process reports the inputs in order, so the first one without a report is the one that killed it. An input
depends only on the kind, the seed and its number, so that it can be repeated.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import psutil

from .readers import KINDS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from .readers.reader import Files

HANG_SECONDS = 30.0
"""Limit of one input; the slowest, a picture of 90 million pixels, takes three."""
MAX_FAULTS = 20
"""Faults after which a kind is stopped."""
SPARE_MEBIBYTES = 4096
"""Address space beyond a kind's limit, so that a bomb does not exhaust the machine's memory."""


class Hang(BaseException):
    """An input took longer than its limit."""


@dataclasses.dataclass
class Outcome:
    """A kind's results: the count of each end, faults by input, seconds, and growth of the process."""

    kind: str
    ends: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0
    mebibytes: int = 0

    @property
    def inputs(self) -> int:
        return self.ends.total() + len(self.faults)


def random_of(kind: str, seed: int, index: int) -> Random:
    """Return the random numbers that decide an input."""
    return Random(f"{seed}/{kind}/{index}")  # noqa: S311 - not for secrets


def run_trial(kind: str, indices: Sequence[int], seed: int, run: Path, kept: Path) -> Outcome:
    """Test inputs of a kind; `run` is a sound run's folder. Write inputs that are faults under `kept`."""
    outcome = Outcome(kind)
    left = list(indices)
    while left and len(outcome.faults) < MAX_FAULTS:
        with tempfile.TemporaryDirectory(prefix="bad-files-") as folder:
            left = _run_process(outcome, left, seed, run, kept, Path(folder))
    return outcome


def _run_process(  # noqa: PLR0913, PLR0917 - everything that an input needs
    outcome: Outcome, indices: list[int], seed: int, run: Path, kept: Path, folder: Path
) -> list[int]:
    """Test inputs in a process; return the remaining ones if an input ended it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, outcome.kind, indices, seed, run, kept, folder))
    process.start()
    theirs.close()
    started, left = time.monotonic(), iter(indices)
    with contextlib.suppress(EOFError):
        while True:
            if not ours.poll(2 * HANG_SECONDS):  # its alarm did not stop it
                process.kill()
            end, fault, seconds, grown = ours.recv()
            if fault:
                outcome.faults[next(left)] = fault
            else:
                outcome.ends[end] += 1
                next(left)
            outcome.slowest = max(outcome.slowest, seconds)
            outcome.mebibytes = max(outcome.mebibytes, grown)
    process.join()
    outcome.seconds += time.monotonic() - started
    if not process.exitcode:
        return []
    killer = next(left, None)
    if killer is None:
        raise RuntimeError(f"{outcome.kind}: its process ended with {process.exitcode} after all inputs")
    outcome.faults[killer] = f"the process ended with {process.exitcode}"
    _keep(kept, outcome.kind, killer, {"crash": b""})
    return list(left)


def _work(  # noqa: PLR0913, PLR0917 - as above
    reports: Connection, kind: str, indices: list[int], seed: int, run: Path, kept: Path, folder: Path
) -> None:
    """Test inputs and report how each ended; stop after too many faults or too much growth."""
    os.environ["MNIST_CNN_CACHE"] = str(folder / "cache")
    limit, process, faults = KINDS[kind].mebibytes, psutil.Process(), 0
    (folder / "files").mkdir()
    reader = KINDS[kind].reader(run, folder / "files")
    for index in range(10):  # not counted: what they import is no growth, and faults come again
        with contextlib.suppress(Exception, SystemExit, Hang), limited(HANG_SECONDS):
            reader.outcome(reader.draw(random_of(kind, -1, index)))
    before = process.memory_info().rss // 2**20
    address_space = process.memory_info().vms + (limit + SPARE_MEBIBYTES) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for index in indices:
        files = reader.draw(random_of(kind, seed, index))
        started, end, fault = time.monotonic(), "", ""
        try:
            with limited(HANG_SECONDS):
                end = reader.outcome(files)
        except BaseException:  # noqa: BLE001 - any exception is a fault
            fault = traceback.format_exc()
        seconds, grown = time.monotonic() - started, max(0, peak() - before)
        if grown > limit:
            fault += f"the process has grown by {grown} MiB; the limit is {limit}"
        if fault:
            _keep(kept, kind, index, files)
            faults += 1
        reports.send((end, fault, seconds, grown))
        if grown > limit or faults >= MAX_FAULTS:
            break
    reports.close()


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hang if the body takes longer, even while it waits for a file."""

    def on_alarm(_signal: int, _frame: object) -> None:
        raise Hang(f"more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _keep(kept: Path, kind: str, index: int, files: Files) -> None:
    """Write an input that is a fault, for inspection."""
    folder = kept / f"{re.sub(r'[^a-zA-Z.]', '-', kind)}-{index}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def peak() -> int:
    """Return this process's peak resident memory, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
    # On Linux, ru_maxrss includes the memory of the parent process.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 2**10
