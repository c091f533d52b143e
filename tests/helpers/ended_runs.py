"""Searches whose runs train nothing: each has ended as soon as it is waited for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.records import write_receipt

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import MnistCnnError, RunPaused
from mnist_cnn.search import searcher
from mnist_cnn.search.request import prepare

if TYPE_CHECKING:
    from mnist_cnn.search.entry import Entry

SEARCH = ("data.validation=100", "train.epochs=4", "model.dense_units=range(8,100)", "search.reduction=2")


@dataclasses.dataclass
class EndedRun:
    """A run that has trained up to its pause; `end` raises how it ended."""

    folder: Path
    end: Callable[[], object]

    def wait(self) -> None:
        self.end()
        raise RunPaused("paused")

    def cancel(self) -> None:
        write_receipt(self.folder, Status.cancelled)

    def status(self) -> Status:
        return run_folder.read_receipt(self.folder).status


Ends = dict[str, Callable[[], object]]


def searched(*overrides: str) -> list[Entry]:
    """Search; return the trials."""
    with searcher.opened(prepare([*SEARCH, *overrides]), lambda line: None) as searching:
        searching.run()
        return list(searching.entries.values())


def raising(error: MnistCnnError) -> Callable[[], None]:
    def end() -> None:
        raise error

    return end
