"""One kind of bad file, tried input by input in a process of its own, which may crash, hang or grow.

The process says before each input which it is, so that one that ends it is known. Each input depends on the
kind, the seed and its number alone, and can be tried again by these.
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
"""How long one input may take; the slowest, a picture of 90 million pixels, takes three."""
MOST_FAULTS = 20
"""After how many a kind is given up."""
ROOM_MEBIBYTES = 4096
"""How much address space there is beyond what a kind may take, so that a bomb does not take the machine."""


class Hang(BaseException):
    """Something took longer than it may."""


@dataclasses.dataclass
class Outcome:
    """What came of a kind: how often each end was met, faults by input, seconds, growth of the process."""

    kind: str
    ends: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: dict[int, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0
    mebibytes: int = 0

    @property
    def inputs(self) -> int:
        return self.ends.total() + len(self.faults)


def drawn(kind: str, seed: int, index: int) -> Random:
    """Return what decides an input."""
    return Random(f"{seed}/{kind}/{index}")  # noqa: S311 - nothing here is secret


def try_out(kind: str, indices: Sequence[int], seed: int, run: Path, kept: Path) -> Outcome:
    """Try inputs of a kind; `run` is a sound run's folder. Those that are faults are written under `kept`."""
    outcome = Outcome(kind)
    left = list(indices)
    while left and len(outcome.faults) < MOST_FAULTS:
        with tempfile.TemporaryDirectory(prefix="bad-files-") as folder:
            left = _in_process(outcome, left, seed, run, kept, Path(folder))
    return outcome


def _in_process(  # noqa: PLR0913, PLR0917 - all that an input needs
    outcome: Outcome, indices: list[int], seed: int, run: Path, kept: Path, folder: Path
) -> list[int]:
    """Try inputs in a process; return those that are left where one of them ended it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, outcome.kind, indices, seed, run, kept, folder))
    process.start()
    theirs.close()
    started, last = time.monotonic(), -1
    while True:
        try:
            if not ours.poll(2 * HANG_SECONDS):  # it does not even hear its alarm
                process.kill()
            said = ours.recv()
        except EOFError:
            break
        if said[0] == "begins":
            last = said[1]
        elif said[0] == "ends":
            outcome.ends[said[1]] += 1
            outcome.slowest = max(outcome.slowest, said[2])
            last = -1
        elif said[0] == "fault":
            outcome.faults[said[1]] = said[2]
            last = -1
        else:
            outcome.mebibytes = max(outcome.mebibytes, said[1])
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
    said: Connection, kind: str, indices: list[int], seed: int, run: Path, kept: Path, folder: Path
) -> None:
    """Try inputs, and say of each how it ended."""
    os.environ["MNIST_CNN_CACHE"] = str(folder / "cache")
    known = KINDS[kind]
    (folder / "files").mkdir()
    reader = known.reader(run, folder / "files")
    _warm_up(reader, kind)
    before = _resident()
    _limit_address_space(known.mebibytes)
    faults = 0
    for index in indices:
        said.send(("begins", index))
        files = reader.draw(drawn(kind, seed, index))
        started = time.monotonic()
        try:
            with limited(HANG_SECONDS):
                end = reader.look(files)
        except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
            said.send(("fault", index, traceback.format_exc()))
            _keep(kept, kind, index, files)
            faults += 1
            if faults >= MOST_FAULTS:
                break
        else:
            said.send(("ends", end, time.monotonic() - started))
        grown = peak() - before
        if grown > known.mebibytes:
            said.send(
                ("fault", index, f"the process has grown by {grown} MiB, {known.mebibytes} are allowed")
            )
            _keep(kept, kind, index, files)
            break
    said.send(("grown", max(0, peak() - before)))
    said.close()


def _warm_up(reader: object, kind: str) -> None:
    """Read a few inputs uncounted, so that what is imported on the way is no growth."""
    for index in range(10):
        try:
            with limited(HANG_SECONDS):
                reader.look(reader.draw(drawn(kind, -1, index)))  # type: ignore[attr-defined]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110 - it is met again, and told of then
            pass


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hang where the body takes longer, also where it waits for a file."""

    def hear(_signal: int, _frame: object) -> None:
        raise Hang(f"more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _keep(kept: Path, kind: str, index: int, files: Files) -> None:
    """Write an input that is a fault where it can be looked at."""
    folder = kept / f"{re.sub(r'[^a-zA-Z.]', '-', kind)}-{index}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _resident() -> int:
    """Return what this process has in memory, in MiB."""
    import psutil

    return int(psutil.Process().memory_info().rss) // 2**20


def peak() -> int:
    """Return the most that this process has had in memory, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
    # Linux counts into ru_maxrss what the process had that started this one.
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 2**10


def _limit_address_space(mebibytes: int) -> None:
    import psutil

    most = int(psutil.Process().memory_info().vms) + (mebibytes + ROOM_MEBIBYTES) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
