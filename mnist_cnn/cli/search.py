"""The command `search`: its output and its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from mnist_cnn.cli import report
from mnist_cnn.cli.command import config_dir_words
from mnist_cnn.cli.search_display import SearchDisplay
from mnist_cnn.cli.table import Column, print_table
from mnist_cnn.errors import Interrupted, MnistCnnError, NeedsForceError, TrainingError
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.result import percent
from mnist_cnn.search import halving, plot, searcher
from mnist_cnn.search.request import FORCE, group, prepare
from mnist_cnn.training import stopping

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command
    from mnist_cnn.search.entry import Entry
    from mnist_cnn.search.halving import Trial
    from mnist_cnn.search.request import Search
    from mnist_cnn.search.searcher import Searcher

PLOT = "search.png"
VALIDATION = "data.validation"


def search(command: Command) -> int:
    command.refuse_arguments()
    stream = sys.stderr if command.as_json else sys.stdout
    what = prepare(command.overrides, command.config_dirs)
    display = SearchDisplay(stream)
    with searcher.opened(what, display.print) as searching:
        report.print_lossy(_begin(what), stream)
        try:
            with display.showing(searching):
                searching.run()
        except KeyboardInterrupt:
            _report_what_runs(searching)
            again = f"continue it: {_again(command)}"
            raise Interrupted(f"interrupted; {what.folder} is kept", again) from None
        except NeedsForceError as error:
            _report_what_runs(searching)
            error.hint = f"{error.hint}: {_again(command, f'{FORCE}=true')}"
            raise
        except MnistCnnError as error:
            _report_what_runs(searching)
            error.then(f"continue it: {_again(command)}")
            raise
        best = halving.best(searching.trials())
        if best is None:
            _report_what_runs(searching)
            raise _all_failed(searching)
        path = what.folder / PLOT
        trained = {number: searching.trained(number) for number in searching.entries}
        plot.draw(path, list(trained.values()), what.plan.rungs, trained[best.number])
        if command.as_json:
            report.print_json(_as_json(what, searching, best))
        else:
            _print_end(what, searching, best, stream)
        _report_what_runs(searching)
    return 0


def _report_what_runs(searching: Searcher) -> None:
    """Print which runs an ended command leaves running.

    Prints on stderr, with what the trials' backend costs now.
    """
    if folders := searching.left_running():
        names = ", ".join(map(str, folders))
        found = f"these runs may still be running; the next command follows them: {names}"
        report.print_lossy(found, sys.stderr)
        report.print_lossy(f"stop one of them: {command_line('cancel', 'RUN')}", sys.stderr)
    runs = [entry.run for entry in searching.entries.values() if entry.run is not None]
    report.print_costs(runs[-1:])


def _begin(what: Search) -> str:
    rungs = [str(rung) for rung in what.plan.rungs]
    compared = f", compared after {', '.join(rungs[:-1])}" if rungs[:-1] else ""
    trials = f"{'all ' if what.plan.trials < what.config.trials else ''}{what.plan.trials} trials"
    return f"search {what.folder}: {trials} of up to {rungs[-1]} epochs{compared}"


def _again(command: Command, *more: str) -> str:
    """Return the command that continues the search.

    It resumes no trial by force unless `more` says so.
    """
    overrides = [text for text in command.overrides if group(text) != FORCE]
    return command_line("search", *config_dir_words(command.config_dirs), *overrides, *more)


def _all_failed(searching: Searcher) -> MnistCnnError:
    """Return the error when all trials have failed."""
    errors = [entry.error for entry in searching.entries.values() if entry.error is not None]
    message = f"all {len(errors)} trials failed; the last one: {errors[-1].message}"
    return TrainingError(message, "choose other ranges")


def _ranked(searching: Searcher) -> list[Entry]:
    """Return the trials, best first.

    Those trained longest come first, then the most accurate; failed ones are last.
    """

    def rank(entry: Entry) -> tuple[bool, int, float, int]:
        trial = entry.trial
        accuracy = trial.accuracies[-1] if trial.accuracies else 0.0
        return trial.has_failed, -trial.epochs, -accuracy, trial.number

    return sorted(searching.entries.values(), key=rank)


def _row(entry: Entry) -> dict[str, Any]:
    trial = entry.trial
    return {
        "trial": trial.number,
        "settings": list(entry.drawn.overrides),
        "epochs": len(entry.accuracies),
        "accuracies": list(entry.accuracies),
        "error": entry.error.message if entry.error is not None else None,
        "run": str(entry.folder),
    }


def _as_json(what: Search, searching: Searcher, best: Trial) -> dict[str, Any]:
    trained, whole = _epochs(what, searching)
    return {
        "search": str(what.folder),
        "best": best.number,
        "accuracy": best.accuracies[-1],
        "command": train_command(what, searching.entries[best.number].drawn.overrides),
        "epochs": trained,
        "epochs_without_halving": whole,
        "plot": str(what.folder / PLOT),
        "trials": [_row(entry) for entry in _ranked(searching)],
    }


def _epochs(what: Search, searching: Searcher) -> tuple[int, int]:
    """Return the epochs trained, and those needed without halving."""
    entries = searching.entries.values()
    return sum(len(entry.accuracies) for entry in entries), len(entries) * what.plan.rungs[-1]


def _print_end(what: Search, searching: Searcher, best: Trial, stream: TextIO) -> None:
    rows = [_row(entry) for entry in _ranked(searching)]
    outcomes = [row["error"] or ("best" if row["trial"] == best.number else "") for row in rows]
    accuracies = [percent(row["accuracies"][-1]) if row["accuracies"] else "" for row in rows]
    print_table(
        [
            Column("trial", [str(row["trial"]) for row in rows]),
            Column("accuracy", accuracies),
            Column("epochs", [str(row["epochs"]) for row in rows]),
            Column("settings", [" ".join(row["settings"]) for row in rows], may_be_cut=True),
            Column("", outcomes, may_be_cut=True),
        ]
    )
    trained, whole = _epochs(what, searching)
    saved = f", {whole - trained} fewer than without halving" if whole > trained else ""
    chosen = searching.entries[best.number].drawn.overrides
    lines = (
        f"accuracies are on the validation images; {trained} epochs were trained{saved}",
        f"runs and {PLOT} are in {what.folder}",
        _train_heading(what, chosen),
        f"  {train_command(what, chosen)}",
    )
    print("\n".join(lines), file=stream, flush=True)


def _train_heading(what: Search, chosen: tuple[str, ...]) -> str:
    if _needs_validation(what, chosen):
        return f"train the best settings; they need the images of {VALIDATION}:"
    return "train the best settings on all training images:"


def _needs_validation(what: Search, chosen: tuple[str, ...]) -> bool:
    return stopping.needs_validation(what.load(*chosen).train)


def train_command(what: Search, chosen: tuple[str, ...]) -> str:
    """Return the command that trains with chosen settings.

    Passwords are redacted. It trains on the validation images too, unless `train.stop_patience` or
    `train.keep` needs them.
    """
    words = config_dir_words(what.config_dirs)
    if _needs_validation(what, chosen):
        words += [*what.fixed, *chosen]
    else:
        fixed = [text for text in what.fixed if text.lstrip("+").partition("=")[0] != VALIDATION]
        words += [*fixed, *chosen, f"{VALIDATION}=0"]
    return redact(command_line(*words))
