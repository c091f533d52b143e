"""The command `report`: writes a run's page."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import launch, overrides, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli import report as printing
from mnist_cnn.cli.commands import end_of
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError
from mnist_cnn.files import atomic
from mnist_cnn.hints import command_line
from mnist_cnn.run_page import facts, page

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command
    from mnist_cnn.job import Job

SUFFIXES = (".html", ".htm")


def report(command: Command) -> int:
    """Write a run's HTML page and print its path."""
    command.allow_only("runs_dir")
    folder = command.folder()
    path = _path(command.flags.get("--output"), folder)
    run = facts.read(folder, _status(folder))
    repetition = _repetition(run.job) if run.job is not None else None
    text = page.text_of(run, repetition, _end(folder, run.status))
    try:
        atomic.write_text(path, text)
    except BackendError as error:
        hint = f"{error.hint}, or choose another file with --output FILE.html"
        raise BackendError(error.message, hint) from error
    if command.as_json:
        status = run.status.value if run.status is not None else None
        printing.print_json({"run": run.name, "status": status, "page": str(path), "problems": run.problems})
        return 0
    for problem in run.problems:
        printing.print_lossy(f"warning: {problem}", sys.stderr)
    print(path)
    return 0


def _path(given: str | None, folder: Path) -> Path:
    """Return the file to write.

    Raises ConfigurationError if `given` cannot be one.
    """
    if given is None:
        return folder / run_folder.REPORT
    path = Path(given)
    if path.suffix.lower() not in SUFFIXES:  # so that no other file of a run is overwritten
        hint = f"for example {command_line('report', folder)} --output run.html"
        raise ConfigurationError(f"--output {given}: the name must end with .html", hint)
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigurationError(f"--output {given}: {reason}", "name a file in a folder that exists")
    return path


def _status(folder: Path) -> Status | None:
    """Return a run's status.

    Returns None if its receipt is damaged. The backend is asked only before the end.
    """
    try:
        return launch.statuses({folder: run_folder.read_receipt(folder)}).get(folder)
    except BackendError:
        return None


def _end(folder: Path, status: Status | None) -> tuple[str, ...]:
    """Return the error and hint of an unsuccessful run."""
    if status is None or not status.is_final or status is Status.completed:
        return ()
    try:
        return tuple(filter(None, end_of(launch.attach_to(folder)).values()))
    except MnistCnnError:  # its backend is not installed here
        receipt = run_folder.read_receipt(folder)
        return tuple(filter(None, (receipt.error, receipt.hint)))


def _repetition(job: Job) -> page.Repetition:
    init = Path(job.train.init).name if job.train.init is not None else None
    train = dataclasses.replace(job.train, init=init)
    try:
        made_by = overrides.overrides_of(dataclasses.replace(job, train=train))
    except ConfigurationError:
        made_by = None
    settings = overrides.settings_of(job).values
    return page.Repetition(job, settings, overrides.defaults(settings), made_by)
