"""What `search` refuses before it writes anything, and the command that trains the winner."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from helpers.cli import refusal
from helpers.records import ROW, write_receipt

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalBackend
from mnist_cnn.cli.main import parse
from mnist_cnn.cli.search import train_command
from mnist_cnn.cli.search_display import describe
from mnist_cnn.errors import BackendError
from mnist_cnn.result import Progress
from mnist_cnn.search import searcher
from mnist_cnn.search.entry import Entry
from mnist_cnn.search.halving import Trial
from mnist_cnn.search.request import prepare
from mnist_cnn.search.searcher import Searcher
from mnist_cnn.search.study import Drawn

if TYPE_CHECKING:
    from helpers.cli import Ask

JOB = ("train=balanced", "data.validation=1000")
RANGE = "train.learning_rate=interval(0.001,0.1)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*JOB,), "search needs a range of values"),
        ((JOB[0], RANGE), "search needs data.validation"),
        ((*JOB, RANGE, "search.trials=0"), "search.trials=0: must be a whole number"),
        ((*JOB, RANGE, "search.trials=2,3"), "search.trials=2,3: search.trials isn't part of the job"),
        ((*JOB, RANGE, "search.trial=3"), "unknown key search.trial"),
        ((*JOB, RANGE, "search=ash"), "search=ash: must be one of asha, tpe"),
        ((*JOB, RANGE, "search.min_epochs=6"), "search.min_epochs=6: the job has train.epochs=5"),
        (
            (*JOB, "train.learning_rate=interval(0,0.1)"),
            "train.learning_rate=0.0: must be a number above 0",
        ),
        ((*JOB, "train.learning_rte=interval(1,2)"), "unknown key train.learning_rte"),
        ((*JOB, "train.optimizer=adam,adan"), "train.optimizer=adan: must be"),
        ((*JOB, "backend=local,slurm"), "backend=local,slurm: backend isn't part of the job"),
        ((*JOB, "runs_dir=a,b"), "runs_dir=a,b: runs_dir isn't part of the job"),
        ((*JOB, "train.checkpoint_every=1,2"), "train.checkpoint_every does not decide the weights"),
        ((*JOB, "train.epochs=range(1,4)"), "the search itself decides how many epochs"),
        ((JOB[1], "train=quick,balanced"), "the search itself decides how many epochs"),
        ((JOB[0], "data.validation=10,20"), "search needs data.validation"),
        ((*JOB, "data.train_limit=5000,6000"), "trials on different data can't be compared"),
        ((*JOB, RANGE, "pause_after=2"), "search does not take pause_after=2"),
        ((*JOB, RANGE, "run_dir=here"), "search does not take run_dir=here"),
        ((*JOB, RANGE, "register.name=best"), "search does not take register.name=best"),
        ((*JOB, RANGE, "latest"), "search takes no argument latest"),
        (("--multirun", *JOB, RANGE), "search does not take --multirun"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    ask: Ask, home: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(ask("search", *words))[0]
    assert list(home.iterdir()) == []


def test_settings_of_a_search_are_refused_elsewhere(ask: Ask) -> None:
    assert refusal(ask("search.trials=3"))[1] == "leave it out, or use the command search"
    assert "of the command search" in refusal(ask("plan", "search=tpe"))[0]


def test_another_search_in_the_same_folder_is_refused(ask: Ask, home: Path) -> None:
    where = "search.dir=study"
    what = prepare([*JOB, RANGE, where])
    with searcher.opened(what, print):
        assert "another process is searching in study" in refusal(ask("search", *JOB, RANGE, where))[0]
    message, hint = refusal(ask("search", *JOB, "train.learning_rate=0.1,0.2", where))
    assert message == f"study holds another search: ranges {RANGE}, not train.learning_rate=0.1,0.2"
    assert "search.dir=FOLDER" in hint
    assert "seed 0, not 1" in refusal(ask("search", *JOB, RANGE, where, "search.seed=1"))[0]
    assert "another search: job" in refusal(ask("search", *JOB, RANGE, where, "seed=1"))[0]
    (home / "other").mkdir()
    (home / "other" / "thesis.tex").touch()
    assert "other holds files, but no search" in refusal(ask("search", *JOB, RANGE, "search.dir=other"))[0]


def test_a_damaged_study_is_reported(ask: Ask, home: Path) -> None:
    what = prepare([*JOB, RANGE])
    with searcher.opened(what, print):
        pass
    journal = home / what.folder / "study.journal"
    journal.write_text("{}\n" + journal.read_text())
    message, hint = refusal(ask("search", *JOB, RANGE), code=4)
    assert "study.journal is damaged" in message
    assert "search.dir=FOLDER" in hint


def test_the_same_search_has_the_same_folder_and_another_has_another(home: Path) -> None:
    assert home.is_dir()
    folders = [
        prepare([*JOB, RANGE, *more]).folder
        for more in ((), ("search.trials=50",), ("search.parallel=2",), ("search.seed=1",), ("seed=1",))
    ]
    assert folders[0] == folders[1] == folders[2]
    assert len(set(folders)) == 3


def test_the_winner_is_trained_on_all_training_images(home: Path) -> None:
    assert home.is_dir()
    what = prepare(["data.validation=9", "train.optimizer=adam,sgd", "model.filters=[8],[8,16]"])
    line = train_command(what, ("train.optimizer=sgd", "model.filters=[8,16]"))
    command = parse(shlex.split(line)[3:])
    config = compose.load(command.overrides)
    assert (config.train.optimizer, config.model.filters) == ("sgd", (8, 16))
    assert (config.train.epochs, config.data.validation) == (12, 0)


@pytest.mark.parametrize("setting", ["train.stop_patience=2", "train.keep=best"])
def test_a_winner_that_needs_validation_images_keeps_them(home: Path, setting: str) -> None:
    assert home.is_dir()
    what = prepare(["data.validation=9", "train.optimizer=adam,sgd", setting])
    line = train_command(what, ("train.optimizer=sgd",))
    assert launch.make_job(*parse(shlex.split(line)[3:]).overrides).data.validation == 9


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), BackendError("the service does not answer")])
def test_runs_that_a_search_leaves_on_a_cluster_are_named(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    def fail(searching: Searcher) -> None:
        for number, status in enumerate((Status.paused, Status.running)):
            folder = home / f"{number:03}"
            write_receipt(folder, status)
            run = SimpleNamespace(cost_report=lambda: ["a node costs 1 USD per hour"])
            drawn = Drawn(number, ())
            searching.entries[number] = Entry(
                drawn, folder, Trial(number, (0.9,)), run=cast("Any", run), history=(ROW,)
            )
        if error is not None:
            raise error

    monkeypatch.setattr(LocalBackend, "ends_with_its_command", False)
    monkeypatch.setattr(Searcher, "run", fail)
    lines = ask("search", *JOB, RANGE).err.splitlines()
    assert lines[0] == f"these runs may still be running; the next command follows them: {home / '001'}"
    assert lines[2] == "a node costs 1 USD per hour"


def test_printed_commands_hold_no_password(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Searcher) -> None:
        raise BackendError("the service does not answer")

    monkeypatch.setattr(Searcher, "run", fail)
    words = [*JOB, RANGE, "track=mlflow", "track.mlflow.uri=http://user:pa55word@host/"]
    printed = [ask("search", *words).err, train_command(prepare(words), ())]
    assert all("http://***@host/" in text and "pa55word" not in text for text in printed)


def test_running_trials_are_shown_with_the_best_so_far_and_what_is_left(tmp_path: Path) -> None:
    def entry(number: int, progress: Progress | None, *accuracies: float, is_running: bool = True) -> Entry:
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [
            dataclasses.replace(ROW, epoch=epoch, val_accuracy=a) for epoch, a in enumerate(accuracies, 1)
        ]
        run_folder.write_history(folder, rows)
        trial = Trial(number, accuracies, len(accuracies), is_running=is_running)
        run = SimpleNamespace(progress=lambda: progress)
        return Entry(Drawn(number, (f"seed={number}",)), folder, trial, run=cast("Any", run))

    half = Progress("running", epoch=2, epochs=5, step=30, steps=60)
    entries = [entry(0, None, 0.5, is_running=False), entry(1, half, 0.75), entry(2, None)]
    searching = SimpleNamespace(
        entries={each.drawn.number: each for each in entries},
        search=SimpleNamespace(plan=SimpleNamespace(trials=9)),
    )
    assert describe(cast("Searcher", searching)) == [
        "trial 1: epoch 2/5 (50%), 75.00% after epoch 1  seed=1",
        "trial 2: starting  seed=2",
        "best so far: trial 1, 75.00% after epoch 1; 2 of 9 trials training, 6 not begun",
    ]
