"""A run as a person watches it, in a terminal or a plain log; in a notebook it is notebook.py's.

Knows the contract's Run, but no backend.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from mnist_cnn.run_folder import trainer_line
from mnist_cnn.terminal.log_stream import LogStream, describe_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from mnist_cnn.backend import Run

WITH_BAR = 110
"""Columns of a terminal from which on there is room for a bar."""
PLAIN_SECONDS = 10.0
"""How often a line says where the training stands where there is no terminal."""


def follow(run: Run, stream: TextIO | None = None, log_stream: LogStream | None = None) -> None:
    """Show what the trainer says and where it stands until the run has ended.

    In a notebook this is shown in its cell, with the history; in a terminal there is one live line under
    what was said; elsewhere, and on a `stream` that is no terminal, there are plain lines. With the
    `log_stream` of a following that was interrupted it goes on from there.
    """
    from mnist_cnn.cli import notebook

    if stream is None and notebook.is_here():
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
    if console.width >= WITH_BAR:
        columns.insert(1, BarColumn(bar_width=24))
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=None)
        for line in _said(log_stream):
            if line is not None:
                console.print(line)
            progress = run.progress()
            if progress is not None:
                done = (progress.epoch - 1) * progress.steps + progress.step
                total = progress.epochs * progress.steps or None
                bar.update(task, description=describe_progress(progress), completed=done, total=total)


def _follow_plainly(run: Run, stream: TextIO, log_stream: LogStream) -> None:
    last_said = time.monotonic()
    for line in _said(log_stream):
        progress = run.progress()
        if line is not None:
            stream.write(f"{line}\n")
        elif progress is not None and time.monotonic() - last_said > PLAIN_SECONDS:
            stream.write(f"{describe_progress(progress)}\n")
        else:
            continue
        stream.flush()
        last_said = time.monotonic()


def _said(log_stream: LogStream) -> Iterator[str | None]:
    """Yield what the trainer says as it says it, and None now and then while it is silent."""
    for line in log_stream:
        yield None if line is None else trainer_line(line)
