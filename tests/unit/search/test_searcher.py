"""How many trials run at once, and what a failure means; the runs train nothing."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.ended_runs import SEARCH, EndedRun, Ends, raising, searched
from helpers.records import write_receipt

from mnist_cnn import job_maker, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalBackend
from mnist_cnn.errors import BackendError, ConfigurationError, RunPaused, TrainingError
from mnist_cnn.search import searcher, study
from mnist_cnn.search.request import prepare
from mnist_cnn.training import initial_weights


def test_as_many_trials_run_at_once_as_the_backend_takes(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("search.reduction=1", "search.parallel=3", "search.trials=6")
    ends[""] = threading.Barrier(2, timeout=0.2).wait
    assert all(entry.error for entry in searched(*words))  # none met another one
    monkeypatch.setattr(LocalBackend, "parallel_runs", None)
    ends[""] = threading.Barrier(3, timeout=20).wait
    assert not any(entry.error for entry in searched(*words, "search.dir=second"))


@pytest.mark.usefixtures("ends")
def test_the_best_settings_are_trained_longest(tmp_path: Path) -> None:
    entries = searched("search.trials=8")
    by_quality = sorted(entries, key=lambda entry: entry.accuracies[0])
    epochs = [len(entry.accuracies) for entry in by_quality]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 4
    assert epochs[0] == 1
    assert not list(tmp_path.glob("runs/search-*/*/result.json"))


@pytest.mark.usefixtures("ends")
def test_a_trial_that_stops_early_is_compared_by_its_last_epoch() -> None:
    entries = searched("search.trials=4", "train.stop_patience=1")
    assert all(set(entry.trial.accuracies) == set(entry.accuracies) for entry in entries)
    assert max(len(entry.accuracies) for entry in entries) == 2
    assert max(entry.trial.epochs for entry in entries) == 4
    assert not any(entry.error for entry in entries)


@pytest.mark.usefixtures("ends")
def test_a_trial_that_has_stopped_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    resume = launch.prepare_resume

    def resume_unfinished(run: str, *rest: list[str]) -> Callable[[], object]:
        assert len(run_folder.read_history(Path(run))) < 2
        return resume(run, *rest)

    monkeypatch.setattr(launch, "prepare_resume", resume_unfinished)
    words = ("search.trials=4", "train.stop_patience=1")
    first = [entry.trial for entry in searched(*words)]
    monkeypatch.delattr(launch, "prepare_resume")
    again = searched(*words)
    assert max(entry.trial.epochs for entry in again) == max(trial.epochs for trial in first) == 4


def test_a_run_that_pauses_before_the_rung_is_continued(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster: a command was interrupted, and its run pauses while the next command waits for it."""
    searched("search.trials=1", "search.reduction=4")
    folder = next(Path("runs").glob("search-*/000"))
    run_folder.write_history(folder, run_folder.read_history(folder)[:1])
    write_receipt(folder, Status.running)
    monkeypatch.setattr(launch, "attach_to", lambda folder, *_: EndedRun(folder, ends[""]))
    ends[""] = lambda: write_receipt(folder, Status.paused)
    (entry,) = searched("search.trials=1", "search.reduction=4")
    assert len(entry.accuracies) == entry.trial.epochs == 4


def test_epochs_that_a_cluster_trained_after_a_kill_are_counted(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a poll brings them into the run folder, and with them the pause."""
    before = [entry.accuracies for entry in searched("search.trials=4")]
    histories = {}
    for folder in Path("runs").glob("search-*/*/"):
        histories[folder] = run_folder.read_history(folder)
        run_folder.write_history(folder, histories[folder][:1] if len(histories[folder]) > 1 else ())
        write_receipt(folder, Status.running)

    def attach(folder: Path, *_: object) -> EndedRun:
        if run_folder.read_receipt(folder).status is Status.running:  # this is the poll
            run_folder.write_history(folder, histories[folder])
            write_receipt(folder, Status.paused)
        return EndedRun(folder, ends[""])

    monkeypatch.setattr(launch, "attach_to", attach)
    assert [entry.accuracies for entry in searched("search.trials=4")] == before


def test_a_run_that_diverged_after_a_kill_is_not_started_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched("search.trials=1")
    folder = next(Path("runs").glob("search-*/000"))
    run_folder.write_history(folder, [])
    write_receipt(folder, Status.failed, exit_code=TrainingError.exit_code)
    diverged = EndedRun(folder, raising(TrainingError("the loss became nan")))
    monkeypatch.setattr(launch, "attach_to", lambda *_: diverged)
    monkeypatch.delattr(launch, "prepare_resume")
    for _ in range(2):  # the second time from the study
        (entry,) = searched("search.trials=1")
        assert entry.error
        assert entry.error.message == "the loss became nan"
    assert not ends[""]()


def still_queued(folder: Path) -> None:
    write_receipt(folder, Status.queued)
    raise BackendError("no node is free")


def test_a_run_that_waited_too_long_for_a_node_is_waited_for_again_when_another_has_ended(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalBackend, "parallel_runs", None)
    monkeypatch.setattr(LocalBackend, "ends_with_its_command", False)
    is_asked, status = threading.Event(), EndedRun.status

    def ask(run: EndedRun) -> Status:
        is_asked.set()
        return status(run)

    def pause_at_the_second_wait() -> None:
        if run_folder.read_receipt(folder).status is not Status.queued:
            still_queued(folder)
        write_receipt(folder, Status.paused)

    monkeypatch.setattr(EndedRun, "status", ask)
    words = ("search.trials=2", "search.reduction=1")
    folder = prepare([*SEARCH, *words]).folder / "000"
    ends |= {"000": pause_at_the_second_wait, "001": lambda: is_asked.wait(20)}
    entries = searched(*words)
    assert [entry.error for entry in entries] == [None, None]
    assert [entry.trial.epochs for entry in entries] == [4, 4]


def test_runs_that_no_node_takes_end_the_command_but_not_the_trials(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalBackend, "parallel_runs", None)
    monkeypatch.setattr(LocalBackend, "ends_with_its_command", False)
    what = prepare([*SEARCH, "search.trials=2"])
    folders = [what.folder / name for name in ("000", "001")]
    ends |= {folder.name: functools.partial(still_queued, folder) for folder in folders}
    with searcher.opened(what, print) as searching:
        with pytest.raises(BackendError, match="no node is free"):
            searching.run()
        assert searching.left_running() == folders
        assert not any(entry.error for entry in searching.entries.values())


def test_a_failure_that_would_come_again_is_kept_and_another_is_tried_again(ends: Ends) -> None:
    ends["000"] = raising(TrainingError("the loss became nan"))
    ends["001"] = raising(BackendError("the node is gone"))
    entries = searched("search.trials=3")
    assert [entry.error and entry.error.message for entry in entries] == [
        "the loss became nan",
        "the node is gone",
        None,
    ]
    ends.clear()
    ends[""] = lambda: None
    entries = searched("search.trials=3")
    assert [entry.error and entry.error.message for entry in entries] == ["the loss became nan", None, None]


def test_a_trial_that_cannot_be_resumed_now_is_not_recorded_as_failed(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends["000"] = raising(BackendError("the node is gone"))
    searched("search.trials=1")
    folder = next(Path("runs").glob("search-*/000"))
    run_folder.write_history(folder, [])
    ends.clear()
    ends[""] = lambda: None
    with monkeypatch.context() as patch:
        patch.setattr(launch, "prepare_resume", lambda *_: raising(ConfigurationError("numpy has changed")))
        with pytest.raises(ConfigurationError, match="numpy has changed"):
            searched("search.trials=1")
    assert [entry.error for entry in searched("search.trials=1")] == [None]


@pytest.mark.usefixtures("ends")
def test_a_trial_whose_folder_was_deleted_is_trained_again() -> None:
    searched("search.trials=1")
    shutil.rmtree(next(Path("runs").glob("search-*/000")))
    (entry,) = searched("search.trials=1")
    assert entry.trial.epochs == 4


@pytest.mark.usefixtures("ends")
def test_all_trials_have_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_maker, "check_network", lambda *_: None)
    network = Path("net.py")
    network.write_text("def build(): ...")
    what = prepare([*SEARCH[:2], "search.trials=1", "model.file=net.py", "train.optimizer=adam,sgd"])
    network.write_text("def build(): pass")
    with searcher.opened(what, print) as searching:
        with pytest.raises(ConfigurationError, match=r"model.file=net.py has changed"):
            searching.run()
        network.write_text("def build(): ...")
        searching.run()
        assert not searching.entries[0].error


@pytest.mark.usefixtures("ends")
def test_all_trials_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = Path("my runs/first/model.keras")
    monkeypatch.setattr(initial_weights, "locate", lambda *_: newest)
    monkeypatch.setattr(initial_weights, "read", lambda *_: ())
    monkeypatch.setattr(initial_weights, "check_network", lambda *_: None)
    monkeypatch.setattr(job_maker, "arrays_sha256", lambda _: "0" * 64)
    train = prepare([*SEARCH, "train.init=latest"]).load().train
    assert (train.init, train.init_sha256) == (str(newest), "0" * 64)


@pytest.mark.usefixtures("ends")
def test_a_backend_that_starts_nothing_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    start = launch.start

    def refuse(*_: object) -> None:
        raise BackendError("no space left")

    monkeypatch.setattr(launch, "start", refuse)
    with pytest.raises(BackendError, match="no space left"):
        searched("search.trials=2")
    monkeypatch.setattr(launch, "start", start)
    assert len(searched("search.trials=2")) == 2


@pytest.mark.usefixtures("ends")
def test_each_trial_is_recorded_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []

    @contextlib.contextmanager
    def record(run: EndedRun) -> Iterator[None]:
        with pytest.raises(RunPaused) as raised:
            yield
        recorded.append(run.folder.name)
        raise raised.value

    monkeypatch.setattr(searcher, "recorded", record)
    assert [entry.error for entry in searched("search.trials=2", "search.reduction=1")] == [None, None]
    assert recorded == ["000", "001"]


@pytest.mark.usefixtures("ends")
def test_a_longer_search_continues_a_shorter_one() -> None:
    few = [entry.settings for entry in searched("search.trials=2")]
    many = [entry.settings for entry in searched("search.trials=4")]
    assert many[:2] == few
    assert len(set(many)) == 4


@pytest.mark.usefixtures("ends")
def test_tpe_draws_near_the_best() -> None:
    words = ("search=tpe", "search.trials=20", "search.reduction=1")
    entries = searched(*words)
    units = [entry.accuracies[-1] for entry in entries]
    assert sum(units[10:]) / 10 > sum(units[:10]) / 10 + 0.1
    again = searched(*words, "search.dir=again")
    assert [entry.settings for entry in again] == [entry.settings for entry in entries]


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize(("kind", "draws"), [("asha", 1), ("tpe", 20)])
def test_each_combination_is_tried_once_and_then_the_search_ends(
    kind: str, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "DRAWS", draws)
    few = ("train.optimizer=adam,sgd", "train.learning_rate=0.1,0.2")
    words = (*SEARCH[:2], "search.reduction=1", f"search={kind}", "search.trials=9", *few)
    tried = []
    for folder in ("first", "second"):
        with searcher.opened(prepare([*words, f"search.dir={folder}"]), lambda _: None) as searching:
            searching.run()
            tried.append([entry.settings for entry in searching.entries.values()])
    assert len(set(tried[0])) == len(tried[0]) == 4
    assert tried[0] == tried[1]


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigurationError, match="isn't installed") as raised:
        prepare(SEARCH)
    assert raised.value.hint.endswith("[search]'")
