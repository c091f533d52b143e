"""Makes a process meet a fault at a point that a test chooses; Python imports this as the process starts.

`helpers.fault_points` explains the points and the faults.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

CHOSEN: dict[str, Any] = json.loads(os.environ["FAULT_POINT"])
IMPORT, LOG_LINE = "import ", "log "
PAGE = 4096
replacing, emit = atomic.replacing, logging.StreamHandler.emit


def fill() -> None:
    """Fill the disk, but for the chosen number of bytes."""
    filler = Path(CHOSEN["path"])
    room = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - CHOSEN["left"]))


def wait() -> None:
    """Tell the test that the point is reached, and wait until the test lets the process continue."""
    path = Path(CHOSEN["path"])
    path.with_suffix(".reached").touch()
    while not path.exists():
        time.sleep(0.01)


def is_reached(point: str) -> bool:
    """Count the visits to the chosen point; return whether this is the chosen one."""
    if point != CHOSEN["point"]:
        return False
    CHOSEN["count"] -= 1
    return bool(CHOSEN["count"] == 0)


@contextlib.contextmanager
def faulty_replacing(path: Path, **options: Any) -> Iterator[Path]:
    """Stand in for `atomic.replacing`."""
    fault = CHOSEN["fault"] if is_reached(path.name) else None
    with contextlib.ExitStack() as stack:
        if fault == "fill":
            fill()
        elif fault == "wait":
            wait()
        elif fault == "limit":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (CHOSEN["left"], hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        temporary = stack.enter_context(replacing(path, **options))
        yield temporary
        if fault == "kill":
            os.truncate(temporary, temporary.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def faulty_emit(self: Any, record: logging.LogRecord) -> None:
    """Stand in for `StreamHandler.emit`: the disk is full during one line, and has room again after it."""
    if not is_reached(LOG_LINE + record.getMessage().partition("/")[0]):
        return emit(self, record)
    os.write(1, b"\n" * (-os.fstat(1).st_size % PAGE))  # use up the rest of the log's last page
    fill()
    emit(self, record)
    return Path(CHOSEN["path"]).unlink()


class ImportPoint:
    """A finder that finds nothing, but waits when the chosen module is first imported."""

    def find_spec(self, name: str, *_: object) -> None:
        if is_reached(IMPORT + name):
            wait()


IS_WORKER = "mnist_cnn.training.worker" in sys.orig_argv
if IS_WORKER and CHOSEN["process"].startswith("worker "):
    from distributed_points import DistributedPoint  # type: ignore[import-not-found] # it lies beside this file

    DistributedPoint(CHOSEN, wait).install()
elif CHOSEN["process"] == ("worker" if IS_WORKER else "command"):
    atomic.replacing = faulty_replacing
    if CHOSEN["point"].startswith(LOG_LINE):
        logging.StreamHandler.emit = faulty_emit  # type: ignore[method-assign]
    if CHOSEN["point"].startswith(IMPORT):
        sys.meta_path.insert(0, ImportPoint())
