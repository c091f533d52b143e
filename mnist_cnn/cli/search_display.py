"""Shows a search while its trials train: live on a terminal, a few lines now and then in a plain log."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TextIO

from mnist_cnn import run_folder
from mnist_cnn.cli import report
from mnist_cnn.cli.display import PLAIN_SECONDS
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.result import percent
from mnist_cnn.search import halving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from mnist_cnn.search.entry import Entry
    from mnist_cnn.search.searcher import Searcher

REFRESHES = 4
"""Refreshes of the live lines, per second."""


class SearchDisplay:
    """Prints a search's lines; while it is `showing`, the running trials are below them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console: Console | None = None

    def print(self, line: str) -> None:
        """Print a line that stays."""
        if self._console is None:
            report.print_lossy(line, self._stream)
        else:
            self._console.print(line, soft_wrap=True)

    @contextlib.contextmanager
    def showing(self, searching: Searcher) -> Iterator[None]:
        from rich.console import Console

        console = Console(file=self._stream, highlight=False, markup=False)
        with self._live(console, searching) if console.is_terminal else self._plain(searching):
            yield

    @contextlib.contextmanager
    def _live(self, console: Console, searching: Searcher) -> Iterator[None]:
        from rich.live import Live
        from rich.text import Text

        def lines() -> RenderableType:
            return Text("\n".join(describe(searching)), no_wrap=True, overflow="ellipsis")

        live = Live(
            get_renderable=lines,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live:
            self._console = console
            try:
                yield
            finally:
                self._console = None

    @contextlib.contextmanager
    def _plain(self, searching: Searcher) -> Iterator[None]:
        has_ended = threading.Event()

        def print_now_and_then() -> None:
            while not has_ended.wait(PLAIN_SECONDS):
                report.print_lossy("\n".join(describe(searching)), self._stream)

        printer = threading.Thread(target=print_now_and_then, daemon=True)
        printer.start()
        try:
            yield
        finally:
            has_ended.set()
            printer.join()


def describe(searching: Searcher) -> list[str]:
    """Return a line for each running trial, then the best so far and how many trials are left."""
    entries = list(searching.entries.values())
    running = [entry for entry in entries if entry.run is not None and entry.trial.is_running]
    trials = searching.search.plan.trials
    last = f"{len(running)} of {trials} trials training, {trials - len(entries)} not begun"
    best = halving.best([entry.trial for entry in entries])
    if best is not None:
        accuracy, epochs = percent(best.accuracies[-1]), len(best.accuracies)
        last = f"best so far: trial {best.number}, {accuracy} after epoch {epochs}; {last}"
    return [*map(_describe_trial, running), last]


def _describe_trial(entry: Entry) -> str:
    """Return for example "trial 3: epoch 2/5 (40%), 97.10% after epoch 1  train.learning_rate=0.01"."""
    parts = []
    with contextlib.suppress(MnistCnnError, OSError):  # of files that are just being written
        progress = entry.run.progress() if entry.run is not None else None
        if progress is not None:
            parts = [progress.status]
            if progress.steps:
                parts = [f"epoch {progress.epoch}/{progress.epochs} ({progress.step / progress.steps:.0%})"]
        if rows := run_folder.read_history(entry.folder):
            parts.append(f"{percent(rows[-1].val_accuracy)} after epoch {rows[-1].epoch}")
    return f"trial {entry.trial.number}: {', '.join(parts) or 'starting'}  {entry.settings}"
