"""Show a run in a terminal or log.

notebook.py shows it in a notebook.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from mnist_cnn.run_folder import STOPPED, trainer_line
from mnist_cnn.terminal.log_stream import LogStream, describe_progress
from mnist_cnn.tracking.recording import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from mnist_cnn.backend import Run

BAR_COLUMNS = 110
"""Least terminal width for a progress bar."""
PLAIN_SECONDS = 10.0
"""Seconds between progress lines in a plain log."""


def follow(run: Run, stream: TextIO | None = None) -> None:
    """Show and record a run until it ends.

    Shows it as `show` does; records it in the trackers that it was started with.
    """
    with recorded(run):
        show(run, stream)


def show(run: Run, stream: TextIO | None = None, log_stream: LogStream | None = None) -> None:
    """Show a run's log and progress until it ends.

    A notebook shows it in the cell, with the history. A terminal shows one live line below the log. Any other
    stream gets plain lines. Pass the `log_stream` of an interrupted call to continue where it stopped.
    """
    from mnist_cnn.cli import notebook

    if stream is None and notebook.is_notebook():
        notebook.follow(run)
        return

    from rich.console import Console

    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True, markup=False)
    if console.is_terminal:
        _follow_live(run, console, log_stream or LogStream(run))
    else:
        _follow_plainly(run, stream, log_stream or LogStream(run))


def _follow_live(run: Run, console: Console, log_stream: LogStream) -> None:
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
    ]
    if console.width >= BAR_COLUMNS:
        columns.insert(1, BarColumn(bar_width=24))
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=None)
        for line in _trainer_lines(log_stream):
            if line is not None:
                console.print(line)
            progress = run.progress()
            if progress is not None:
                done = (progress.epoch - 1) * progress.steps + progress.step
                total = progress.epochs * progress.steps or None
                completed = done if total else None  # without numbers, the bar stays as it is
                bar.update(task, description=describe_progress(progress), completed=completed, total=total)


def _follow_plainly(run: Run, stream: TextIO, log_stream: LogStream) -> None:
    last_written = time.monotonic()
    for line in _trainer_lines(log_stream):
        progress = run.progress()
        if line is not None:
            stream.write(f"{line}\n")
        elif progress is not None and time.monotonic() - last_written > PLAIN_SECONDS:
            stream.write(f"{describe_progress(progress)}\n")
        else:
            continue
        stream.flush()
        last_written = time.monotonic()


def _trainer_lines(log_stream: LogStream) -> Iterator[str | None]:
    """Yield the trainer's lines as they arrive.

    Yields None for other lines and for every pause. The line that says why the trainer stopped is left out,
    because `Run.wait` raises the same message.
    """
    for line in log_stream:
        text = None if line is None else trainer_line(line)
        yield None if text is not None and text.startswith(STOPPED) else text
