"""The command `delete`: asks, then deletes runs.

Deletes their folders, and their checkpoints in a cluster's store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import launch, run_deletion, run_folder
from mnist_cnn.backend import StoresCheckpoints
from mnist_cnn.cli import report
from mnist_cnn.cli.command import config_dir_words
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, MnistCnnError
from mnist_cnn.hints import command_line, see_the_runs
from mnist_cnn.terminal import signals

if TYPE_CHECKING:
    from mnist_cnn.backend import Run, Status
    from mnist_cnn.cli.command import Command
    from mnist_cnn.receipt import Receipt

YES, KEEP = "--yes", "--keep-checkpoints"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A run that may be deleted.

    `receipt` is the one at the check; `stored` are the checkpoint files outside the folder, with their bytes.
    """

    run: Run
    status: Status
    receipt: Receipt
    stored: dict[str, int]

    @property
    def folder(self) -> Path:
        return self.run.folder

    def __str__(self) -> str:
        sizes = [path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir()]
        return f"{self.folder}: {self.status.value}, {_amount(sizes)}"


def delete(command: Command) -> int:
    """Delete runs that have ended.

    All are checked before the first is deleted.
    """
    command.allow_only("runs_dir", "backend", "force")
    if not command.words or "" in command.words:
        hint = f"for example {command_line('delete', 'latest')}; {see_the_runs()}"
        raise ConfigurationError("delete needs at least one RUN", hint)
    found = [launch.find(word, command.overrides, command.config_dirs) for word in command.words]
    folders = {folder.resolve(): folder for folder in found}  # each once
    chosen = [_checked(folder, command) for folder in folders.values()]
    with_stored = _confirmed(chosen, command)
    answers: list[dict[str, Any]] = []
    code = 0
    try:
        for one in chosen:
            answer, error = _delete(one, with_stored=with_stored)
            answers.append(answer)
            if error is not None:  # the other runs are still deleted
                report.print_error(error)
                code = error.exit_code
            elif not command.as_json:
                report.print_lossy(f"deleted {one.folder}", sys.stdout)
    except KeyboardInterrupt:
        left = [str(one.folder) for one in chosen if (one.folder / run_folder.RECEIPT).exists()]
        if not left:
            raise Interrupted("interrupted; all were deleted") from None
        hint = f"delete them: {command_line('delete', *left)}"
        raise Interrupted(f"interrupted; not deleted: {', '.join(left)}", hint) from None
    if command.as_json:
        report.print_json(answers)
    return code


def _checked(folder: Path, command: Command) -> Chosen:
    """Return a run that may be deleted.

    Raises ConfigurationError if it may not, BackendError if that isn't known.
    """
    by_hand = f"if you no longer need it, remove the folder yourself: rm -r {shlex.quote(str(folder))}"
    if folder.is_symlink():
        target = folder.resolve()
        hint = f"delete the run itself: {command_line('delete', target)}"
        raise ConfigurationError(f"{folder} is a link to {target}", hint)
    inner = _run_inside(folder)
    if inner is not None:
        hint = f"delete it first, or move it away: {command_line('delete', inner)}"
        raise ConfigurationError(f"{folder} holds another run, {inner}", hint)
    try:
        run = launch.attach_to(folder, command.overrides, command.config_dirs)
        status = run.status()
        receipt = run_folder.read_receipt(folder)
    except BackendError as error:
        raise BackendError(error.message, f"{error.hint}; {by_hand}") from error
    if not status.is_final:
        host = run_folder.other_host(receipt)
        where = f" on {host}" if host else ""
        gone = f"; if that machine is gone: {command_line('delete', folder, 'force=true')}" if host else ""
        hint = f"cancel it first: {command_line('cancel', folder)}{gone}"
        raise ConfigurationError(f"{folder} is {status.value}{where}", hint)
    stored = {}
    if isinstance(run, StoresCheckpoints) and KEEP not in command.flags:
        try:
            stored = run.stored_checkpoints()
        except BackendError as error:
            again = command_line("delete", folder, KEEP)
            raise BackendError(
                error.message, f"{error.hint}; to leave its checkpoints there: {again}"
            ) from error
    return Chosen(run, status, receipt, stored)


def _run_inside(folder: Path) -> Path | None:
    """Return a run anywhere below a folder, if any.

    Links are not followed, because they are not followed when the folder is removed.
    """
    holders = (Path(parent) for parent, _, names in os.walk(folder) if run_folder.RECEIPT in names)
    return next((holder for holder in holders if holder != folder), None)


def _confirmed(chosen: list[Chosen], command: Command) -> bool:
    """Ask the user before runs are deleted.

    Returns whether checkpoints outside the folders are deleted too. Raises Interrupted if nothing may be
    deleted, ConfigurationError if there is no terminal.
    """
    if YES in command.flags:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        hint = f"add {YES}: {_without_asking(chosen, command)}"
        raise ConfigurationError("delete asks first, but there is no terminal", hint)
    for one in chosen:
        print(one, file=sys.stderr)
    what = "it" if len(chosen) == 1 else f"these {len(chosen)} runs"
    if not _ask(f"delete {what}? [y/N] "):
        raise Interrupted("nothing was deleted")
    stored = [size for one in chosen for size in one.stored.values()]
    return bool(stored) and _ask(
        f"also delete the checkpoints in the cluster's store ({_amount(stored)})? [y/N] "
    )


def _without_asking(chosen: list[Chosen], command: Command) -> str:
    """Return the command that deletes these runs without asking.

    It names the runs by their folders.
    """
    folders = [one.folder for one in chosen]  # a newer run may be the latest one by then
    dirs = config_dir_words(command.config_dirs)
    return command_line("delete", *dirs, *folders, *command.overrides, *command.flags, YES)


def _ask(question: str) -> bool:
    try:
        print(question, end="", file=sys.stderr, flush=True)
        return input().strip().lower() in ("y", "yes")
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        raise Interrupted("nothing was deleted") from None


def _delete(one: Chosen, *, with_stored: bool) -> tuple[dict[str, Any], MnistCnnError | None]:
    """Delete a run; return its JSON and any error.

    The error is None if the run is deleted. Removes its checkpoints from the store first, because only the
    run folder knows where they are.
    """
    removed = list(one.stored) if with_stored else []

    def remove_stored() -> None:
        if removed and isinstance(one.run, StoresCheckpoints):
            one.run.remove_stored_checkpoints(removed)
        signals_deferred.enter_context(signals.defer_signals())  # until the folder is removed

    try:
        with contextlib.ExitStack() as signals_deferred:
            run_deletion.delete(one.folder, one.receipt, remove_stored)
    except MnistCnnError as error:
        return {"run": one.folder.name, "error": error.message, "hint": error.hint}, error
    return {"run": one.folder.name, "deleted": True, "stored_files_deleted": len(removed)}, None


def _amount(sizes: list[int]) -> str:
    from humanize import naturalsize

    return f"{len(sizes)} file{'' if len(sizes) == 1 else 's'} with {naturalsize(sum(sizes))}"
