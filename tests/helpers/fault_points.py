"""Faults at an exact point of a process, so that no test depends on when something happens.

A point is the COUNT-th time that the `command` or the `worker` writes a file, imports a module, or logs a
line; or that one of several workers meets the others or exchanges something with them. The faults are real:
a disk that is full, a limit on file sizes, SIGKILL, SIGSTOP, or a wait for the test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

SITE = Path(__file__).parent / "fault_site"


def fault(  # noqa: PLR0913 - each is one word of the sentence
    kind: str, process: str, point: str, count: int = 1, *, left: int = 0, path: Path | None = None
) -> dict[str, str]:
    """Return the environment in which `process`, `command` or `worker`, meets a fault.

    `point` is a file's name, "import MODULE", or "log WORDS", which is a line's text up to its first slash.
    If `process` is "worker N", one of several, `point` is a call of `connect`, `gather` or `total`, by which
    they share a training. The file `path`, with the suffix .reached, appears before the fault. The kinds are
        fill   the disk is full but for `left` bytes before the file is written; `path` fills it
        limit  no file may be larger than `left` bytes while the file is written
        kill   half of the file is written, under its temporary name, when the process kills itself
        stop   the process stops itself until it gets SIGCONT; the others wait for it for six seconds
        wait   see `Gate`
    """
    chosen = {"process": process, "point": point, "count": count, "fault": kind, "left": left}
    paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "FAULT_POINT": json.dumps({**chosen, "path": str(path) if path else None}),
    }


class Gate:
    """A point at which a process waits until the test opens the gate, or meets another fault."""

    def __init__(self, folder: Path, process: str, point: str, count: int = 1, kind: str = "wait") -> None:
        self._path = folder / "gate"
        self.environment = fault(kind, process, point, count, path=self._path)
        self._path.with_suffix(".reached").unlink(missing_ok=True)

    @property
    def is_reached(self) -> bool:
        return self._path.with_suffix(".reached").exists()

    def open(self) -> None:
        self._path.touch()
