"""The commands `logs` and `open`.

They show a run's log as it is, and its page or pictures in the browser.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.cli import report
from mnist_cnn.errors import ConfigurationError, Interrupted
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.cli.command import Command

FOLLOW = "--follow"
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Variables that show that a browser can be started.

One of them must be set, except on macOS.
"""


def logs(command: Command) -> int:
    """Print the trainer's output; --follow waits for the end."""
    command.allow_only("runs_dir", "backend")
    run = command.run()
    lines = []
    is_empty = True
    try:
        for line in run.logs(follow=FOLLOW in command.flags):
            is_empty = False
            if command.as_json:
                lines.append(line)
            else:
                print(line, flush=FOLLOW in command.flags)
    except KeyboardInterrupt:
        hint = f"continue: {command_line('logs', run.folder, FOLLOW)}"
        raise Interrupted("interrupted", hint) from None
    if command.as_json:
        report.print_json({"run": run.folder.name, "lines": lines})
    elif is_empty:
        print(f"{run.folder} has printed nothing yet", file=sys.stderr)
    return 0


def open_run(command: Command) -> int:
    """Open a run's page, its report or its plots.

    Prints their addresses if there is no browser.
    """
    command.allow_only("runs_dir")
    folder = command.folder()
    pages = _pages(folder)
    if not pages:
        hint = f"check its status: {command_line('status', folder)}"
        raise ConfigurationError(f"{folder} has no report, no plots and no page of its service", hint)
    opened = [_show(page) for page in pages]
    if command.as_json:
        report.print_json({"run": folder.name, "pages": pages, "opened": all(opened)})
        return 0
    for page, is_open in zip(pages, opened, strict=True):
        print(f"opened {page}" if is_open else page)
    if not all(opened):
        print("there is no browser or no display here; open it yourself")
    return 0


def _pages(folder: Path) -> list[str]:
    """Return the addresses of the pages to open.

    These are the run's page at its service, or else its report, or else its pictures.
    """
    url = run_folder.read_receipt(folder).url or ""
    if url.startswith(("https://", "http://")):  # the receipt may have been changed
        return [url]
    names = [run_folder.REPORT] if (folder / run_folder.REPORT).is_file() else run_folder.PLOTS
    return [(folder / name).resolve().as_uri() for name in names if (folder / name).is_file()]


def _show(page: str) -> bool:
    """Open a page; return whether a browser opened it."""
    import webbrowser

    if sys.platform != "darwin" and not any(os.environ.get(name) for name in DISPLAYS):
        return False
    return webbrowser.open(page)
