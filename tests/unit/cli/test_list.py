"""The command `list`: filters, order, what was set, and a table that fits the terminal."""

from __future__ import annotations

import dataclasses
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Ask, refusal
from helpers.records import write_receipt, write_run

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.files import safe_read

GENERATED = "2026-01-0{0}T00-00-00Z-3f9{0}"


@pytest.fixture
def runs(home: Path) -> Path:
    """Five runs: a, b and c completed; b and c train the same job; d failed; e is just being started."""
    write_run(home / "runs" / "a", "train=quick", "seed=3", accuracy=0.991, created=_day(1))
    for number, name in ((2, "b"), (3, "c")):
        write_run(home / "runs" / name, "train.epochs=2", accuracy=0.95 + number / 100, created=_day(number))
    failed: dict[str, Any] = {"status": Status.failed, "error": "the loss became nan", "created": _day(4)}
    write_run(home / "runs" / "d", "train.epochs=2", "seed=1", **failed)
    write_run(home / "runs" / "e", status=Status.preparing, created=_day(5), host=socket.gethostname())
    return home / "runs"


def _day(number: int) -> str:
    return f"2026-01-0{number}T00:00:00.000000+00:00"


def names(ask: Ask, *arguments: str) -> str:
    """Return the names of the listed runs, of one letter each."""
    ended = ask("list", "--json", *arguments)
    assert ended.code == 0, ended.err
    return "".join(row["run"] for row in ended.json())


def test_a_path_is_found_as_it_was_given(ask: Ask, home: Path) -> None:
    folder = home / "runs" / "a"
    write_run(folder, accuracy=0.9)
    job = run_folder.read_job(folder)
    data = dataclasses.replace(job.data, dir=str(home / "mydata"))
    train = dataclasses.replace(job.train, init=str(folder / "model.keras"), init_sha256="1" * 64)
    write_run(home / "runs" / "b", accuracy=0.9)
    run_folder.write_job(home / "runs" / "b", dataclasses.replace(job, data=data, train=train))
    inits = ("a", "runs/a", "runs/a/model.keras", f"{folder}/model.keras")
    given = [f"data.dir={path}" for path in ("mydata", home / "mydata")] + [f"train.init={i}" for i in inits]
    for override in given:
        assert names(ask, override) == "b", override
    assert names(ask, "train.init=null") == "a"
    assert names(ask, "data.dir=other") == names(ask, "train.init=b") == ""
    shutil.rmtree(folder)
    for override in given:
        assert names(ask, override) == "b", override


def test_a_filter_that_is_given_twice_is_refused(ask: Ask) -> None:
    message, hint = refusal(ask("list", "seed=2", "seed=1"))
    assert message == "seed is given twice: seed=2 and seed=1"
    assert hint == "write all of its values once, with commas between them"


def test_only_filters_are_named_if_no_run_matches(ask: Ask) -> None:
    assert ask("list", "runs_dir=here", "seed=2").out == "no run under here matches seed=2\n"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("", "edcba"),
        ("status=completed", "cba"),
        ("status=failed,preparing", "ed"),
        ("train.epochs=2", "dcb"),
        ("train.epochs=1,2 seed=1", "d"),
        ("train=quick", "a"),
        ("train=tutorial", "edcb"),
        ("train=glob(q*)", "a"),
        ("model=compact", "a"),
        ("data=mnist seed=3", "a"),
        ("model.filters=[32,64] seed=0", "ecb"),
        ("train.learning_rate=1", "edcb"),
        ("data.dir=null status=failed", "d"),
        ("backend=local seed=1", "d"),
        ("backend=slurm", ""),
        ("backend.device=gpu", ""),
        ("save_h5=true", ""),
    ],
)
def test_filters_choose_runs(ask: Ask, runs: Path, filters: str, expected: str) -> None:
    assert names(ask, f"runs_dir={runs}", *filters.split()) == expected


def test_a_filter_may_name_the_beginning_of_a_digest(ask: Ask, runs: Path) -> None:
    digest = run_folder.read_receipt(runs / "b").job_digest
    assert names(ask, f"digest={digest[:6]}") == "cb"
    assert names(ask, "digest=3e10,0x") == ""


@pytest.mark.usefixtures("runs")
def test_a_list_without_a_match_says_so(ask: Ask) -> None:
    ended = ask("list", "seed=77")
    assert (ended.code, ended.out) == (0, "no run under runs matches seed=77\n")
    assert ask("list", "--json", "seed=77").json() == []


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("--sort accuracy", "acbed"),  # those without an accuracy are last, newest first
        ("--sort accuracy --reverse", "bcaed"),
        ("--sort=run", "abcde"),
        ("--sort created --reverse", "abcde"),
        ("--sort seed --limit 3", "ecb"),
        ("--sort seed --reverse --limit=2", "ad"),
        ("--sort status", "cbade"),
        ("--limit 99", "edcba"),
    ],
)
def test_sort_orders_and_limit_cuts(ask: Ask, order: str, expected: str) -> None:
    assert names(ask, *order.split()) == expected


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            "status=complete",
            "status=complete: must be one of queued, preparing",
            "did you mean completed?",
        ),
        ("train.epoch=3", "unknown key train.epoch", "did you mean train.epochs?"),
        ("train.epochs=many", "train.epochs=many: must be a whole number", "passes over"),
        ("train=quik", "train=quik: must be one of accurate, balanced", "did you mean quick?"),
        ("register.name=m", "unknown key register.name", "did you mean data.name?"),
        ("seed=interval(0,1)", "seed=interval(0,1): an interval has endless values", "commas"),
        ("--sort acuracy", "--sort=acuracy: unknown key acuracy", "did you mean accuracy?"),
        ("--sort", "--sort needs a value", "--sort=KEY"),
        ("--sort= --reverse", "--sort needs a value", "--sort=KEY"),
        ("--limit= 3", "--limit needs a value", "--limit=N"),
        ("--limit 0", "--limit=0: must be a whole number, 1 or more", "list --limit=10"),
        ("--limit -3", "--limit=-3: must be a whole number", "list --limit=10"),
    ],
)
def test_a_wrong_filter_or_order_is_refused(ask: Ask, arguments: str, message: str, hint: str) -> None:
    said = refusal(ask("list", *arguments.split()))
    assert message in said[0]
    assert hint in said[1]


def test_json_has_all_that_is_known(ask: Ask, runs: Path) -> None:
    rows = {row["run"]: row for row in ask("list", "--json").json()}
    assert rows["a"]["settings"] == {"train": "quick", "seed": 3}
    assert rows["b"]["settings"] == {"train.epochs": 2}
    assert rows["b"]["digest"] == rows["c"]["digest"] == run_folder.read_receipt(runs / "c").job_digest
    assert rows["a"]["weights_sha256"] == "0" * 64
    assert (rows["d"]["accuracy"], rows["d"]["error"]) == (None, "the loss became nan")


@pytest.mark.usefixtures("runs")
def test_the_table_marks_equal_jobs_and_shows_what_was_set(ask: Ask) -> None:
    heads, _, *lines = ask("list").out.splitlines()
    assert heads.split() == ["run", "status", "accuracy", "age", "job", "settings"]
    cells = {line.split()[0]: line.split() for line in lines[:5]}
    assert cells["b"][4] == cells["c"][4] != cells["d"][-3]
    assert cells["a"][-2:] == ["train=quick", "seed=3"]
    assert cells["b"][2] == "97.00%"
    assert lines[5:] == ["", "d: the loss became nan", "what to do: python -m mnist_cnn status RUN"]


LONG = ("train=balanced", "train.learning_rate=0.0123", "train.rotation=12.5", "seed=4")


@pytest.fixture
def realistic(home: Path) -> list[str]:
    """The names of four runs: two with generated names, one with a long name, and one that has failed."""
    names = [GENERATED.format(number) for number in (1, 2, 3)]
    names.insert(2, "a-long-name-of-a-run-with-the-second-network")
    for number, name in enumerate(names[:3], 1):
        backend = "azure" if number == 2 else "local"
        write_run(home / "runs" / name, *LONG, accuracy=0.99, backend=backend, created=_day(number))
    write_run(home / "runs" / names[3], *LONG, status=Status.failed, error="why " * 50, created=_day(4))
    return names


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_line_for_each_run_fits_the_terminal(
    ask: Ask, realistic: list[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = ask("list").out.splitlines()
    assert max(map(len, lines)) <= columns
    rows = [line.split() for line in lines[2:6]]
    assert [row[1] for row in rows] == ["failed", "completed", "completed", "completed"]
    assert all("  train=balan" in line for line in lines[2:6])
    assert all(("seed=4" in line) is (columns == 200) for line in lines[2:6])
    named = [row[0] for row in reversed(rows)]
    assert (named == realistic) is (columns == 200)
    assert [run_folder.find(name, "runs").name for name in named] == realistic


def test_nothing_is_cut_without_a_terminal(ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(home / "runs" / ("a" * 50), "train.rotation=12.5", "train.zoom=0.25", accuracy=0.9)
    monkeypatch.delenv("COLUMNS")
    assert "train.rotation=12.5 train.zoom=0.25\n" in ask("list").out


def test_a_run_whose_receipt_or_result_is_damaged_is_listed(ask: Ask, runs: Path) -> None:
    (runs / "a" / "run.json").write_text("{")
    (runs / "b" / "result.json").write_text("{")
    (runs / "c" / "job.json").write_text("{")
    rows = {row["run"]: row for row in ask("list", "--json").json()}
    assert (rows["a"]["status"], rows["a"]["settings"]) == ("damaged", {"train": "quick", "seed": 3})
    assert rows["a"]["error"].startswith("runs/a/run.json isn't a receipt")
    assert (rows["b"]["accuracy"], rows["c"]["settings"]) == (None, None)
    lines = {line.split()[0]: line for line in ask("list").out.splitlines() if line}
    assert lines["b"].split()[2] == "damaged"
    assert names(ask, "status=damaged") == "a"
    assert names(ask, "seed=0") == "eb"


def test_runs_that_have_ended_are_not_asked_again(
    ask: Ask, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend can't even be imported."""
    for name, status in (("a", Status.completed), ("d", Status.cancelled)):
        write_receipt(runs / name, status, backend="nowhere:Backend")
    asked: list[str] = []

    def ask_backend(folder: Path, _: object) -> Status:
        asked.append(folder.name)
        return Status.running

    monkeypatch.setattr(launch, "_status", ask_backend)
    assert names(ask, "status=running") == "e"
    assert asked == ["e"]


@pytest.mark.usefixtures("runs")
def test_list_reads_each_file_of_a_run_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = safe_read.open_file

    def open_file(path: Path, *limit: Any) -> Any:
        read.append(str(path))
        return original(path, *limit)

    monkeypatch.setattr(safe_read, "open_file", open_file)
    assert names(ask, "status=completed") == "cba"
    ended = [path for path in read if path.startswith(("runs/a", "runs/b", "runs/c"))]
    assert sorted(ended) == sorted(
        f"runs/{name}/{file}" for name in "abc" for file in ("job.json", "result.json", "run.json")
    )
