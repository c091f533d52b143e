"""A search that continues an earlier one, of which something has changed; the runs train nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.ended_runs import SEARCH, EndedRun, searched
from helpers.records import write_receipt

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.slurm import SlurmBackend
from mnist_cnn.errors import NeedsForceError
from mnist_cnn.tracking import state

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.cli import Ask

ONE = (*SEARCH, "search.trials=1", "search.dir=found")
TRIAL = Path("found/000")
NO_PID = 2**22 + 1
"""Larger than any process has."""


def cut_to(epochs: int, status: Status, **values: Any) -> None:
    """Let the trial look as if it had trained this many epochs only."""
    run_folder.write_history(TRIAL, run_folder.read_history(TRIAL)[:epochs])
    write_receipt(TRIAL, status, **values)


@pytest.fixture
def resumed(home: Path, ends: object, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each resume, of a search that ended."""
    assert home.is_dir()
    assert ends
    searched(*ONE[len(SEARCH) :])
    given: list[list[str]] = []
    resume = launch.prepare_resume

    def prepare_resume(run: str, overrides: list[str], dirs: tuple[str, ...]) -> Callable[[], object]:
        given.append(list(overrides))
        return resume(run, overrides, dirs)

    monkeypatch.setattr(launch, "prepare_resume", prepare_resume)
    return given


@pytest.mark.usefixtures("resumed")
def test_a_trial_on_another_machine_ends_the_search_at_once(ask: Ask) -> None:
    cut_to(1, Status.running, host="elsewhere", pid=NO_PID)
    ended = ask("search", *ONE)
    assert ended.code == 2
    message, hint = ended.err.splitlines()
    assert message.endswith(f"{TRIAL} is running on elsewhere, not on this machine")
    assert "if that machine is gone: python -m mnist_cnn search" in hint
    assert hint.endswith("search.dir=found force=true")


def test_with_force_a_trial_of_a_lost_machine_is_resumed_up_to_its_pause(resumed: list[list[str]]) -> None:
    cut_to(1, Status.running, host="elsewhere", pid=NO_PID)
    (entry,) = searched(*ONE[len(SEARCH) :], "force=true")
    assert entry.trial.epochs == 4
    assert all("force=true" in overrides and "pause_after=" in overrides[-1] for overrides in resumed)
    assert resumed


@pytest.mark.usefixtures("resumed")
def test_a_trial_whose_packages_changed_is_resumed_by_the_search(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NeedsForceError("numpy has changed", "resume found/000 force=true")

    cut_to(1, Status.lost)
    monkeypatch.setattr(launch, "prepare_resume", refuse)
    hint = ask("search", *ONE).err.splitlines()[-1]
    assert "undo that, or resume anyway: python -m mnist_cnn search" in hint
    assert hint.endswith("search.dir=found force=true")


def test_a_resumed_trial_gets_the_trackers_and_their_login(
    resumed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_with_login", {})
    track = ("track=mlflow", "track.mlflow.uri=http://me:pa55word@host")
    cut_to(1, Status.lost)
    searched(*ONE[len(SEARCH) :], *track)
    assert set(track) <= set(resumed[0])
    assert state.with_login("http://host") == "http://me:pa55word@host"


def test_a_followed_trial_keeps_its_backend_and_a_resumed_one_moves_to_the_given_one(
    resumed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    attached: list[tuple[str, ...]] = []
    given = ("backend=slurm", "backend.partition=x")

    def attach(folder: Path, overrides: tuple[str, ...], _: object) -> EndedRun:
        attached.append(overrides)
        return EndedRun(folder, lambda: write_receipt(folder, Status.paused))

    monkeypatch.setattr(launch, "attach_to", attach)
    monkeypatch.setattr(SlurmBackend, "check", lambda *_: None)
    cut_to(1, Status.running)
    (entry,) = searched(*ONE[len(SEARCH) :], *given)
    assert entry.trial.epochs == 4
    assert attached[0] == ()
    assert all(set(given) <= set(overrides) for overrides in resumed)
    assert resumed


def test_a_search_without_a_backend_continues_here(resumed: list[list[str]]) -> None:
    cut_to(1, Status.lost)
    searched(*ONE[len(SEARCH) :])
    assert "backend=local" in resumed[0]


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("name", [run_folder.METRICS, run_folder.RECEIPT])
def test_a_trial_with_a_damaged_file_fails_and_the_others_continue(name: str) -> None:
    searched("search.trials=2", "search.dir=found")
    (TRIAL / name).write_text("{")
    damaged, sound = searched("search.trials=2", "search.dir=found")
    assert damaged.error
    assert str(TRIAL / name) in damaged.error.message
    assert f"delete {TRIAL} to train this trial again" in damaged.error.message
    assert sound.error is None
    shutil.rmtree(TRIAL)
    assert not any(entry.error for entry in searched("search.trials=2", "search.dir=found"))
