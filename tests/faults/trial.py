"""Tests one kind of bad file, input by input, in a separate process that may crash, hang or grow.

The process reports each input before it reads it, so that an input that kills it is known. An input depends
only on the kind, the seed and its number, so that it can be repeated.
"""

from __future__ import annotations

import collections
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
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

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
    started, last = time.monotonic(), -1
    while True:
        try:
            if not ours.poll(2 * HANG_SECONDS):  # its alarm did not stop it
                process.kill()
            message = ours.recv()
        except EOFError:
            break
        if message[0] == "begins":
            last = message[1]
        elif message[0] == "ends":
            outcome.ends[message[1]] += 1
            outcome.slowest = max(outcome.slowest, message[2])
            last = -1
        elif message[0] == "fault":
            outcome.faults[message[1]] = message[2]
            last = -1
        else:
            outcome.mebibytes = max(outcome.mebibytes, message[1])
    process.join()
    outcome.seconds += time.monotonic() - started
    if last == -1:
        if process.exitcode:
            raise RuntimeError(
                f"{outcome.kind}: its process ended with {process.exitcode} between two inputs"
            )
        return []
    outcome.faults[last] = f"the process ended with {process.exitcode}"
    _keep(kept, outcome.kind, last, {"crash": b""})
    return indices[indices.index(last) + 1 :]


def _work(  # noqa: PLR0913, PLR0917 - as above
    reports: Connection, kind: str, indices: list[int], seed: int, run: Path, kept: Path, folder: Path
) -> None:
    """Test inputs and report how each ended."""
    os.environ["MNIST_CNN_CACHE"] = str(folder / "cache")
    known = KINDS[kind]
    (folder / "files").mkdir()
    reader = known.reader(run, folder / "files")
    _warm_up(reader, kind)
    before = _resident()
    _limit_address_space(known.mebibytes)
    faults = 0
    for index in indices:
        reports.send(("begins", index))
        files = reader.draw(random_of(kind, seed, index))
        started = time.monotonic()
        try:
            with limited(HANG_SECONDS):
                end = reader.look(files)
        except BaseException:  # noqa: BLE001 - any exception is a fault
            reports.send(("fault", index, traceback.format_exc()))
            _keep(kept, kind, index, files)
            faults += 1
            if faults >= MAX_FAULTS:
                break
        else:
            reports.send(("ends", end, time.monotonic() - started))
        grown = peak() - before
        if grown > known.mebibytes:
            reports.send(
                ("fault", index, f"the process has grown by {grown} MiB; the limit is {known.mebibytes}")
            )
            _keep(kept, kind, index, files)
            break
    reports.send(("grown", max(0, peak() - before)))
    reports.close()


def _warm_up(reader: object, kind: str) -> None:
    """Read a few inputs first, so that imports do not count as growth."""
    for index in range(10):
        try:
            with limited(HANG_SECONDS):
                reader.look(reader.draw(random_of(kind, -1, index)))  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110 - the counted inputs report it
            pass


@contextmanager
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


def _resident() -> int:
    """Return this process's resident memory, in MiB."""
    import psutil

    return int(psutil.Process().memory_info().rss) // 2**20


def peak() -> int:
    """Return this process's peak resident memory, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
    # On Linux, ru_maxrss includes the memory of the parent process.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 2**10


def _limit_address_space(mebibytes: int) -> None:
    import psutil

    limit = int(psutil.Process().memory_info().vms) + (mebibytes + SPARE_MEBIBYTES) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
