"""A fake run for tests of what a person sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.backend import ModelRef, Status

if TYPE_CHECKING:
    from mnist_cnn.errors import MnistCnnError
    from mnist_cnn.result import Progress, Result


@dataclasses.dataclass
class ScriptedRun:
    """A run without a backend: a test sets its log and how it ends."""

    folder: Path
    end: Status
    error: MnistCnnError | None = None
    lines: tuple[str, ...] = ()
    interrupted: bool = False
    now: Progress | None = None
    ended: bool = False
    result: Result | None = None

    def status(self) -> Status:
        return self.end if self.ended else Status.running

    def progress(self) -> Progress | None:
        if self.interrupted:
            raise KeyboardInterrupt
        return self.now

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        yield from self.lines
        self.ended = follow

    def wait(self) -> Result:
        if self.result is not None:
            return self.result
        assert self.error is not None
        raise self.error

    def cancel(self) -> None:
        raise AssertionError

    def cost_report(self) -> Iterator[str]:
        yield from ()

    def download_checkpoints(self) -> None:
        raise NotImplementedError

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        raise AssertionError(name, min_accuracy)
