"""A run as a person watches it in a notebook: updated in place in its cell, and kept there when it is saved.

Knows the contract's Run, the run folder and IPython's `display`, but no backend and no widgets. IPython is
imported only here, where it is running already.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import re
import sys
import tempfile
import time
from collections import deque
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.terminal.log_stream import LogStream, describe_progress, describe_seconds
from mnist_cnn.training import plots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backend import Run
    from mnist_cnn.result import EpochRow, Progress, Result

UPDATE_SECONDS = 0.25
LAST_LINES = 8
LONGEST_LINE = 300
PICTURE_WIDTH = 720
"""Pixels of the notebook that the learning curves take."""


def is_here() -> bool:
    """Tell whether this process is a notebook's kernel; imports nothing to find out."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


def follow(run: Run) -> None:
    """Show in the cell where the run stands, until it has ended; when interrupted, leave the run as it is."""
    cell = _Cell(run)
    try:
        cell.update()
        updated = time.monotonic()
        for line in LogStream(run):
            if line is not None:
                cell.hear(line)
            if time.monotonic() - updated >= UPDATE_SECONDS:
                cell.update()
                updated = time.monotonic()  # after it, for a picture may take longer than the pause
        cell.end()
    except BaseException:
        cell.leave()
        raise


class _Cell:
    """What a cell shows of a run: where it stands, the history and the learning curves, below each other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        job = run_folder.read_job(run.folder)
        self._held_out = "validation" if job.data.validation else "test"
        self._status = Status.queued
        self._said: deque[str] = deque(maxlen=LAST_LINES)
        self._printed: deque[str] = deque(maxlen=LAST_LINES)
        self._drawn = 0
        self._standing, self._history, self._curves = _Place(), _Place(), _Place()

    def hear(self, line: str) -> None:
        """Take a line of the log."""
        self._printed.append(line[:LONGEST_LINE])
        said = run_folder.trainer_line(line)
        if said is not None:
            self._said.append(said[:LONGEST_LINE])

    def update(self) -> None:
        """Show where the run stands now."""
        self._look()
        progress = self._run.progress()
        is_training = progress is not None and progress.status == Status.running
        self._show(progress=progress if is_training and not self._status.is_final else None)

    def end(self) -> None:
        """Show how the run ended; its result may have to be fetched first."""
        self.update()
        if not self._status.is_final:
            self.leave()
            return
        try:
            outcome = _describe_result(self._run.wait())
        except MnistCnnError as error:
            outcome = f"{error.message}\n{error.hint}".strip()
            self._said = self._printed  # what went wrong may have been said by somebody else
        self._look()  # one that has no result to fetch is not completed
        self._show(note=outcome)

    def leave(self) -> None:
        """Say that nobody watches any more, where the run has not ended."""
        if not self._status.is_final:
            again = f"mnist_cnn.follow(mnist_cnn.attach({str(self._run.folder)!r}))"
            self._show(note=f"not watched any more; watch it again: {again}")

    def _look(self) -> None:
        with contextlib.suppress(BackendError):  # a place that does not answer now; its backend tells of it
            self._status = self._run.status()

    def _show(self, *, progress: Progress | None = None, note: str = "") -> None:
        url = None
        with contextlib.suppress(BackendError):
            url = run_folder.read_receipt(self._run.folder).url
        name = self._run.folder.resolve().name
        standing = Standing(name, self._status, url, progress, note, tuple(self._said))
        self._standing.show({"text/html": standing.html(), "text/plain": standing.text()})
        rows: Sequence[EpochRow] = ()
        with contextlib.suppress(BackendError):  # a damaged file; the log's lines are there all the same
            rows = run_folder.read_history(self._run.folder)
        if rows:
            self._history.show(describe_history(rows, self._held_out))
        if len(rows) != self._drawn:
            self._drawn = len(rows)
            with contextlib.suppress(OSError, MnistCnnError):  # no room for a picture: the table has it all
                self._curves.show(draw_history(rows, self._held_out), {"image/png": {"width": PICTURE_WIDTH}})


class _Place:
    """One output of the cell, there from what is shown first and updated in place where that changes."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}
        self._handle: Any = None

    def show(self, bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show a bundle of MIME types, unless it is there already."""
        from IPython.display import display

        if bundle == self._shown:
            return
        if self._handle is None:
            self._handle = display(bundle, raw=True, metadata=metadata, display_id=True)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata)
        self._shown = bundle


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a run stands: `progress` of one that is training, `note` on its end, `lines` last in its log."""

    name: str
    status: Status
    url: str | None = None
    progress: Progress | None = None
    note: str = ""
    lines: tuple[str, ...] = ()

    def html(self) -> str:
        """Return it as HTML."""
        head = f"run <b>{escape(self.name)}</b>: <b>{escape(self.status.value)}</b>{_link(self.url)}"
        parts = [f"<div>{head}</div>"]
        if self.progress is not None:
            done = (self.progress.epoch - 1) * self.progress.steps + self.progress.step
            bar = f'<progress value="{done}" max="{self.progress.epochs * self.progress.steps}"></progress>'
            parts.append(f"<div>{bar} {escape(describe_progress(self.progress))}</div>")
        if self.note:
            parts.append(f'<div style="white-space: pre-line">{escape(self.note)}</div>')
        text = "\n".join(self.lines)
        return "".join([*parts, f"<pre>{escape(text)}</pre>"])

    def text(self) -> str:
        """Return it as plain text, for what shows no HTML."""
        standing = describe_progress(self.progress) if self.progress is not None else None
        head = f"run {self.name}: {self.status.value}"
        return "\n".join(filter(None, (head, self.url, standing, self.note, *self.lines)))


def describe_history(rows: Sequence[EpochRow], held_out: str) -> dict[str, str]:
    """Return the history as a table; `held_out` is what `val_*` are of, "test" or "validation"."""
    names = ("epoch", "loss", "accuracy", f"{held_out} loss", f"{held_out} accuracy", "seconds")
    cells = [
        (
            str(row.epoch),
            *(f"{value:.4f}" for value in (row.loss, row.accuracy, row.val_loss, row.val_accuracy)),
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return {"text/html": html, "text/plain": "\n".join("  ".join(row) for row in (names, *cells))}


def draw_history(rows: Sequence[EpochRow], held_out: str) -> dict[str, Any]:
    """Return the learning curves as PNG. Raises as `pictures.history` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.png"
        plots.history(rows, path, held_out=held_out)
        png = base64.b64encode(path.read_bytes()).decode()
        return {"image/png": png, "text/plain": "learning curves"}


def _describe_result(result: Result) -> str:
    epochs = f"{len(result.history)} epoch{'s' if len(result.history) > 1 else ''}"
    seconds = describe_seconds(sum(row.seconds for row in result.history))
    return f"test accuracy {result.accuracy:.4f}, test loss {result.loss:.4f} after {epochs} in {seconds}"


def _link(url: str | None) -> str:
    """Return a link to the run's page at its service; none where the receipt names no web page."""
    page = re.match(r"https?://([\w.-]+)", url or "")
    if url is None or page is None:
        return ""
    return f', <a href="{escape(url)}" target="_blank" rel="noopener">{escape(page.group(1))}</a>'
