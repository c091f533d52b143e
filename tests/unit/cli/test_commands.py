"""Commands that need no trained run: plan, an empty list, and how a command ends."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from helpers.cli import Ask, refusal
from helpers.processes import SMALL
from helpers.records import write_receipt, write_result

from mnist_cnn import launch, process_identity, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalBackend, LocalRun
from mnist_cnn.cli import commands, listing
from mnist_cnn.errors import BackendError, ConfigurationError


def test_plan_prints_what_would_happen_and_writes_nothing(ask: Ask, home: Path) -> None:
    overrides = ("seed=3", "register.name=digits", "data.validation=100")
    plain, lines = ask("plan", *overrides), ask("plan", "--json", *overrides).json()
    assert plain.code == 0
    assert [line.split()[0] for line in plain.out.splitlines()] == list(lines)
    assert re.fullmatch(r"[0-9a-f]{64}", lines["job"])
    assert "60000 training images, 100 of them for validation, 10000 test images" in lines["data"]
    assert "12 epochs in batches of 128, adadelta, learning rate 1" in lines["train"]
    assert lines["seed"] == "3"
    assert lines["folder"] == "a new one under runs"
    assert lines["registered"] == "as digits, if its test accuracy is at least 0.95"
    assert list(home.iterdir()) == []


def test_plan_downloads_no_missing_data(ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    ended = ask("plan", "data=fashion_mnist")
    assert ended.code == 0
    assert "downloaded when a run starts" in ended.out
    assert list(home.iterdir()) == []


def test_an_empty_list_says_how_to_start_a_run(ask: Ask) -> None:
    assert ask("list").out.splitlines()[0] == "no runs under runs"
    assert "backend=local" in ask("list").out
    assert ask("list", "--json").json() == []


def test_list_shows_whole_names_newest_first(ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    names = ["a" * 60, "b" * 60]
    for number, name in enumerate(names, 1):
        write_receipt(home / "runs" / name, Status.completed, created=f"2026-01-0{number}T00:00:00+00:00")
    (home / "runs" / "not-a-run").mkdir()
    lines = [line for line in ask("list").out.splitlines() if "completed" in line]
    assert [line.split()[0] for line in lines] == names[::-1]
    rows = ask("list", "--json").json()
    assert [row["run"] for row in rows] == names[::-1]
    assert {"run", "status", "accuracy", "backend", "created"} <= set(rows[0])


def test_the_beginning_of_a_name_is_enough_if_it_is_unique(ask: Ask, home: Path) -> None:
    for name in ("2026-01-aa", "2026-01-ab", "2026-02-cc"):
        write_receipt(home / "runs" / name, Status.completed)
    assert ask("status", "2026-02").out.startswith("2026-02-cc is completed")
    assert ask("status", "2026-01-ab").out.startswith("2026-01-ab is completed")
    expected = ("2026-01 matches 2 runs", "choose one of 2026-01-aa, 2026-01-ab")
    assert refusal(ask("status", "2026-01")) == expected
    assert refusal(ask("status", "2026-01-bb"))[1].startswith("did you mean 2026-01-")


def test_list_shows_what_a_killed_command_left(ask: Ask, home: Path) -> None:
    left = home / "runs" / "left"
    left.mkdir(parents=True)
    run_folder.write_job(left, launch.make_job(*SMALL))
    os.utime(left, (1_000_000_000, 1_000_000_000))
    assert [(row["run"], row["status"]) for row in ask("list", "--json").json()] == [("left", "not started")]
    *_, row, note = ask("list").out.rstrip().splitlines()
    assert row.split()[:3] == ["left", "not", "started"]
    assert note.startswith("not started: its command was killed")


@pytest.mark.parametrize("name", ["job.json", "result.json", "model.keras"])
def test_status_names_a_damaged_file_and_what_rebuilds_it(ask: Ask, home: Path, name: str) -> None:
    write_result(home / "run")
    run_folder.write_job(home / "run", launch.make_job(*SMALL))
    assert "damaged" not in ask("status", "run").out
    assert ask("status", "run", "--json").json()["damage"] is None
    (home / "run" / name).write_text("{")
    *_, what, then = ask("status", "run").out.splitlines()
    assert what.startswith(f"damaged: run/{name} is not ")
    assert then == "rebuild it: python -m mnist_cnn resume run"
    assert f"damaged: {ask('status', 'run', '--json').json()['damage']}" == what


def test_the_end_of_a_name_is_enough_if_it_is_unique(ask: Ask, home: Path) -> None:
    for name in ("2026-01-3f9c", "2026-01-4e9c"):
        write_receipt(home / "runs" / name, Status.queued)
    assert ask("status", "3f9c").out.startswith("2026-01-3f9c is ")
    assert refusal(ask("status", "9c"))[0] == "9c matches 2 runs"


def test_an_absolute_path_is_not_called_a_name_under_runs(ask: Ask, home: Path) -> None:
    assert refusal(ask("status", f"{home}/nowhere"))[0] == f"run {home}/nowhere: not found"
    assert refusal(ask("status", str(home)))[0] == f"{home} is not a run: it has no run.json"


def test_list_fits_80_columns_and_says_why_runs_failed(ask: Ask, home: Path) -> None:
    name = "2026-01-01T00-00-00Z-3f9{}"
    old = {"created": "2024-12-01T00:00:00+00:00", "host": socket.gethostname()}
    backend = f"{home}/my_clusters_backend.py:NiceBackend"
    why = "the loss became nan in epoch 7, by step 123 of 469, and nobody knows why"
    write_receipt(home / "runs" / name.format(1), Status.failed, backend=backend, error=why, **old)
    write_receipt(home / "runs" / name.format(2), Status.running, pid=2**22, process_started=1.0, **old)
    lines = ask("list").out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split() for line in lines[2:4]]
    assert [(row[0], row[1], row[-1]) for row in cells] == [
        (name.format(1), "failed", "NiceBackend"),
        (name.format(2), "lost", "local"),
    ]
    assert lines[-3].startswith(f"{name.format(1)}: the loss became nan in epoch 7")
    assert lines[-2:] == [
        f"{name.format(2)}: its process is gone",
        "what to do: python -m mnist_cnn status RUN",
    ]
    failed = next(row for row in ask("list", "--json").json() if row["status"] == "failed")
    assert (failed["backend"], failed["error"]) == (backend, why)


@pytest.mark.parametrize(
    ("status", "error", "said", "then"),
    [
        (
            Status.running,
            None,
            "ended without an error: it was killed",
            "resume it: python -m mnist_cnn resume 'my runs/a'; ",
        ),
        (
            Status.failed,
            "the loss became nan",
            "the loss became nan",
            "lower it; the log is my runs/a/log.txt",
        ),
        (Status.cancelled, None, "the run was cancelled", "lower it"),
    ],
    ids=["lost", "failed", "cancelled"],
)
def test_status_says_why_a_run_ended_and_what_next(  # noqa: PLR0913, PLR0917 - a table's columns
    ask: Ask, home: Path, status: Status, error: str | None, said: str, then: str
) -> None:
    there = {"pid": 2**22, "process_started": 1.0, "host": socket.gethostname()}
    write_receipt(home / "my runs" / "a", status, exit_code=5, error=error, hint="lower it", **there)
    lines = ask("status", "a", "runs_dir=my runs").out.splitlines()
    assert said in lines[1]
    assert lines[2].startswith(then)
    shown = ask("status", "a", "runs_dir=my runs", "--json").json()
    assert (shown["error"], shown["hint"]) == (lines[1], lines[2])


@pytest.mark.parametrize("accuracy", [0.94, 0.96])
def test_register_is_suggested_only_if_it_would_succeed(ask: Ask, home: Path, accuracy: float) -> None:
    write_result(home / "my runs" / "a", accuracy)
    (home / "my runs" / "a" / "log.txt").touch()
    out = ask("follow", "a", "runs_dir=my runs").out
    assert "try it:      python -m mnist_cnn predict 'my runs/a' IMAGE.png\n" in out
    suggested = "register it: python -m mnist_cnn register 'my runs/a' register.name=mnist-cnn\n"
    assert (suggested in out) == (accuracy >= 0.95)
    assert ("register it" in out) == (accuracy >= 0.95)


def test_plan_shows_each_run_of_a_sweep(ask: Ask, home: Path) -> None:
    sweep = ("plan", "--multirun", "seed=1,2", "train=glob(q*)")
    lines, plans = ask(*sweep).out.splitlines(), ask(*sweep, "--json").json()
    assert [plan["settings"] for plan in plans] == ["seed=1 train=quick", "seed=2 train=quick"]
    assert [plan["seed"] for plan in plans] == ["1", "2"]
    second = lines.index("[2/2] seed=2 train=quick")
    assert lines[0] == "[1/2] seed=1 train=quick"
    assert [line.split()[0] for line in lines[1 : second - 1]] == list(plans[0])[1:]
    assert lines[second - 1] == "the other jobs, differences only:"
    assert lines[second + 1 :] == [f"job         {plans[1]['job']}", "seed        2"]  # what differs
    assert list(home.iterdir()) == []


def test_plan_shows_a_sweep_over_data_sets_that_are_missing(ask: Ask) -> None:
    planned = ask("plan", "--multirun", "data=mnist,kmnist")
    assert planned.code == 0, planned.err
    assert "where       not known yet" in planned.out
    assert ask("plan", "--multirun", "data=kmnist,mnist").code == 0


def _raising(error: BaseException) -> Callable[..., NoReturn]:
    def command(*_: object) -> NoReturn:
        raise error

    return command


def test_an_interrupt_that_a_library_turned_into_an_error_is_none(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise AttributeError("half initialised")

    def not_imported(*_: object) -> NoReturn:
        try:
            broken()
        except AttributeError as error:
            raise ConfigurationError("cannot be imported") from error

    def refused(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise BackendError("cannot cancel the run")  # noqa: B904 - as in a clean-up

    for command, code in ((broken, 130), (not_imported, 130), (refused, BackendError.exit_code)):
        monkeypatch.setattr(listing, "list_runs", command)
        ended = ask("list")
        assert (ended.code, "Traceback" in ended.err) == (code, False)


def test_a_bug_exits_1_and_an_interrupt_130(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "list_runs", _raising(RuntimeError("two\nlines")))
    ended = ask("list")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-2] == "error: a bug: RuntimeError: two lines"
    monkeypatch.setattr(listing, "list_runs", _raising(KeyboardInterrupt()))
    ended = ask("list")
    assert ended.code == 130
    assert ended.err.splitlines()[0] == "interrupted"


def test_a_closed_stdout_fails_a_changing_command(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "register", _raising(BrokenPipeError()))
    assert refusal(ask("register"), 4)[0] == "register stopped: stdout was closed"


def test_an_interrupted_start_says_what_was_started(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalBackend, "submit", _raising(KeyboardInterrupt()))
    assert ask().err == "interrupted\nnothing was started\n"
    monkeypatch.setattr(LocalBackend, "ends_with_its_command", False)  # as a cluster's backend
    assert ask().err == "interrupted\ncheck whether it started: python -m mnist_cnn list\n"
    assert "may have started" in ask("--multirun", "seed=1,2").out


def test_an_interrupted_follow_detaches_from_a_local_run(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process stands for the worker."""
    this = {"pid": os.getpid(), "process_started": process_identity.start_time(os.getpid())}
    write_receipt(home / "run", Status.running, host=socket.gethostname(), **this)
    monkeypatch.setattr("mnist_cnn.cli.run_to_end.show", _raising(KeyboardInterrupt()))
    monkeypatch.setattr(LocalRun, "cancel", lambda _: pytest.fail("the run was cancelled"))
    ended = ask("follow", "run")
    assert (ended.code, ended.err.splitlines()[0]) == (130, "detached; run is still running")


BACKEND_OF_AN_INTERRUPTED_SWEEP = """
from mnist_cnn.backends.local import LocalBackend, LocalRun
from mnist_cnn.errors import RunCancelled

class Run(LocalRun):
    def logs(self, *, follow=False):
        return iter(())

    def wait(self):
        if (self.folder / "cancelled").exists():
            raise RunCancelled("the run was cancelled")
        raise KeyboardInterrupt

    def cancel(self):
        (self.folder / "cancelled").touch()

class Own(LocalBackend):
    ends_with_its_command = {ends_with_its_command}

    def submit(self, job, folder):
        return Run(folder, self.registry)
"""
"""It starts no trainer; waiting for one of its runs is interrupted, as by Ctrl-C."""


@pytest.mark.parametrize("ends_with_its_command", [True, False])
def test_ctrl_c_in_a_sweep_cancels_runs_that_end_with_it(
    ask: Ask, home: Path, *, ends_with_its_command: bool
) -> None:
    backend = BACKEND_OF_AN_INTERRUPTED_SWEEP.format(ends_with_its_command=ends_with_its_command)
    (home / "own.py").write_text(backend, encoding="utf-8")
    ended = ask("--multirun", "backend=own.py:Own", "seed=1,2", "--json")
    assert ended.code == 130
    outcome = "the run was cancelled" if ends_with_its_command else "still running"
    assert [trial["outcome"] for trial in ended.json()] == [outcome, "not started"]
    assert len(list((home / "runs").iterdir())) == 1
    assert len(list((home / "runs").glob("*/cancelled"))) == ends_with_its_command
    assert "interrupted; 0 of 2 completed\n" in ended.err


BACKEND_WITH_A_BUG = """
from mnist_cnn.backends.local import LocalBackend, LocalRun

class Run(LocalRun):
    def logs(self, *, follow=False):
        return iter(())

    def wait(self):
        raise {error}

class Own(LocalBackend):
    parallel_runs = {places}

    def submit(self, job, folder):
        return Run(folder, self.registry)
"""
"""It starts no trainer; its runs raise an exception that no code translates."""


@pytest.mark.parametrize(
    ("places", "error", "code", "outcome"),
    [
        (1, "RuntimeError('password=planted')", 1, "a bug: RuntimeError: password=***"),
        (2, "RuntimeError('password=planted')", 1, "a bug: RuntimeError: password=***"),
        (1, "OSError(5, 'Input/output error', 'run.json')", 4, "run.json: Input/output error"),
        (2, "OSError(5, 'Input/output error', 'run.json')", 4, "run.json: Input/output error"),
    ],
)
def test_a_failed_trial_stops_no_other_and_fails_the_sweep(  # noqa: PLR0913, PLR0917 - a table's columns
    ask: Ask, home: Path, places: int, error: str, code: int, outcome: str
) -> None:
    (home / "own.py").write_text(BACKEND_WITH_A_BUG.format(error=error, places=places), encoding="utf-8")
    ended = ask("--multirun", "backend=own.py:Own", "seed=1,2", "--json")
    assert ended.code == code, ended.err
    assert [trial["outcome"] for trial in ended.json()] == [outcome, outcome]
    assert ("Traceback" in ended.err) == (code == 1)
    assert "planted" not in ended.out + ended.err
