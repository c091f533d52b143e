"""The command `compare`: rows that differ, what it says about the weights, and the picture."""

from __future__ import annotations

import dataclasses
import os
import socket
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Ask, refusal
from helpers.records import ROW, write_receipt, write_run
from PIL import Image

from mnist_cnn import process_identity, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli import comparison
from mnist_cnn.training import plots

OTHER_WEIGHTS = "1" * 64
FIRST, SECOND = ({"fingerprint": letter * 64} for letter in "ab")


def rows(out: str) -> dict[str, list[str]]:
    """Return the cells of the printed table by the name of the row."""
    lines = [line.split() for line in out.splitlines()]
    return {words[0]: words[1:] for words in lines if len(words) > 1}


def test_only_what_differs_is_shown(ask: Ask, home: Path) -> None:
    write_run(home / "runs" / "a", "seed=1", accuracy=0.99)
    write_run(home / "runs" / "b", "seed=2", "train.epochs=3", accuracy=0.98, threads=4)
    ended = ask("compare", "a", "b")
    assert ended.code == 0, ended.err
    shown = rows(ended.out)
    assert shown["a"] == ["b"]  # the heads
    assert (shown["seed"], shown["train.epochs"]) == (["1", "2"], ["12", "3"])
    assert (shown["threads"], shown["accuracy"]) == (["2", "4"], ["99.00%", "98.00%"])
    digests = [run_folder.read_receipt(home / "runs" / name).job_digest[:12] for name in "ab"]
    assert shown["job"] == digests
    assert not {"train.batch_size", "precision", "keras", "status", "loss", "weights_sha256"} & shown.keys()
    assert ended.out.endswith("\nthe weights are equal\nthe curves are in comparison.png\n")
    with Image.open(home / "comparison.png") as picture:
        assert picture.size == (1200, 552)


def test_hashes_of_initial_weights_are_shortened(ask: Ask, home: Path) -> None:
    for name, digit in (("a", "1"), ("b", "2")):
        write_run(home / "runs" / name)
        job = run_folder.read_job(home / "runs" / name)
        train = dataclasses.replace(job.train, init="model.keras", init_sha256=digit * 64)
        run_folder.write_job(home / "runs" / name, dataclasses.replace(job, train=train))
    assert rows(ask("compare", "a", "b").out)["train.init_sha256"] == ["1" * 12, "2" * 12]


def test_the_same_answer_as_json(ask: Ask, home: Path) -> None:
    for name in "ab":
        write_run(home / "runs" / name, "model.dense_units=8", f"seed={len(name)}", accuracy=0.99)
    write_run(home / "runs" / "b", "data.train_limit=100", accuracy=0.5, weights_sha256=OTHER_WEIGHTS)
    said = ask("compare", "a", "b", "--json", "--picture", "p.png").json()
    assert said["runs"][1] == {"run": "b", "folder": "runs/b", "status": "completed"}
    assert said["settings"]["model.dense_units"] == [8, 128]
    assert said["settings"]["data.train_limit"] == [None, 100]
    assert said["result"]["weights_sha256"] == ["0" * 64, OTHER_WEIGHTS]
    assert (said["notes"], said["picture"]) == (["the weights differ, as the jobs do"], "p.png")
    assert (home / "p.png").is_file()


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (FIRST, SECOND | {"threads": 4}, "the numbers that the first steps compute"),
        (FIRST, SECOND | {"threads": 4}, "threads 4 (was 2)"),
        (FIRST, FIRST | {"precision": "bfloat16"}, "precision bfloat16 (was float32)"),
        (FIRST, FIRST | {"versions": {"keras": "4"}}, "keras 4 (was 3)"),
        (FIRST, FIRST | {"changes": ("seed=2 (was 1)",)}, "resumed with force=true: seed=2 (was 1)"),
        (FIRST, FIRST, "nothing that is recorded differs, so a later step computed other numbers"),
    ],
)
def test_it_says_why_equal_jobs_have_different_weights(
    ask: Ask, home: Path, before: dict[str, Any], now: dict[str, Any], reason: str
) -> None:
    write_run(home / "runs" / "a", accuracy=0.9, **before)
    write_run(home / "runs" / "b", accuracy=0.9, weights_sha256=OTHER_WEIGHTS, **now)
    (note,) = ask("compare", "a", "b", "--json").json()["notes"]
    assert note.startswith("a and b are equal jobs with different weights: ")
    assert reason in note


def test_of_three_runs_those_with_equal_weights_are_named(ask: Ask, home: Path) -> None:
    for name, seed, weights in (("a", 1, "0"), ("b", 2, "1"), ("c", 1, "0")):
        write_run(home / "runs" / name, f"seed={seed}", accuracy=0.9, weights_sha256=weights * 64)
    assert ask("compare", "a", "b", "c", "--json").json()["notes"] == ["equal weights: a, c"]


def test_runs_that_did_not_complete_are_compared_as_far_as_known(ask: Ask, home: Path) -> None:
    """This process stands for the trainer of `running`."""
    this = {"pid": os.getpid(), "process_started": process_identity.start_time(os.getpid())}
    runs = home / "runs"
    write_run(runs / "done", accuracy=0.99, environment={"OMP_NUM_THREADS": "1"})
    write_run(runs / "running", "seed=1", status=Status.running, host=socket.gethostname(), **this)
    run_folder.write_history(runs / "running", [ROW, dataclasses.replace(ROW, epoch=2, val_accuracy=0.5)])
    write_run(runs / "failed", "seed=2", status=Status.failed, error="out of memory")
    write_run(runs / "receipt", accuracy=0.9)
    (runs / "receipt" / "run.json").write_text("{")
    write_run(runs / "job", accuracy=0.9)
    (runs / "job" / "job.json").write_text("{")
    (runs / "job" / "result.json").write_text("{")
    said = ask("compare", "done", "running", "failed", "receipt", "job", "--json").json()
    assert said["result"]["status"] == ["completed", "running", "failed", "damaged", "completed"]
    assert said["settings"] == {"seed": [0, 1, 2, 0, "unknown"]}
    assert said["result"]["epochs"] == [1, 2, 0, 1, 1]
    assert said["result"]["val_accuracy"] == [None, 0.5, None, None, 0.9]
    errors = said["result"]["error"]
    assert errors[:2] == [None, None]
    assert errors[2:4] == ["out of memory", "its receipt is damaged"]
    assert errors[4].startswith("runs/job/result.json is not a result")
    assert said["environment"]["OMP_NUM_THREADS"] == ["1", "unknown", "unknown", None, "unknown"]


def test_without_a_finished_epoch_there_is_no_picture(ask: Ask, home: Path) -> None:
    for name in "ab":
        write_receipt(home / "runs" / name, Status.failed)
    ended = ask("compare", "a", "b")
    assert ended.out.endswith("no run has finished an epoch, so there are no curves\n")
    assert [path.name for path in home.iterdir()] == ["runs"]


def test_settings_that_only_one_backend_has_are_not_compared(ask: Ask, home: Path) -> None:
    settings = {"a": ("slurm", {"cpus": 4, "qos": None}), "b": ("slurm", {"cpus": 8, "qos": None})}
    for name, (backend, values) in (settings | {"c": ("local", {"device": "cpu"})}).items():
        write_run(home / "runs" / name, accuracy=0.9, backend=backend, backend_settings=values)
    said = ask("compare", "a", "b", "--json").json()["environment"]
    assert said == {"backend.cpus": [4, 8]}
    assert ask("compare", "a", "c", "--json").json()["environment"] == {"backend": ["slurm", "local"]}


def test_only_features_of_processors_that_differ_are_shown(ask: Ask, home: Path) -> None:
    write_run(home / "runs" / "a", accuracy=0.9, processor="x86_64 avx avx2 fma")
    write_run(home / "runs" / "b", accuracy=0.9, processor="x86_64 avx2 fma")
    assert rows(ask("compare", "a", "b").out)["processor"] == ["avx", "-"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["2026-01-01T00-00-00Z-3f9c", "2026-01-02T00-00-00Z-4e9c"], ["3f9c", "4e9c"]),
        (["2026-01-01T00-00-00Z-3f9c", "first"], ["3f9c", "first"]),
        (
            ["2026-01-01T00-00-00Z-3f9c", "2026-01-02T00-00-00Z-3f9c"],
            ["1T00-00-00Z-3f9c", "2T00-00-00Z-3f9c"],
        ),
    ],
)
def test_runs_are_called_by_the_end_of_their_name(names: list[str], labels: list[str]) -> None:
    assert comparison._labels([Path("runs", name) for name in names]) == labels  # noqa: SLF001


def test_runs_with_equal_names_are_called_by_the_end_of_their_path(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(plots, "comparison", lambda runs, path: drawn.extend(label for label, _ in runs))
    for seed, name in enumerate(("a/first", "b/first", "b/second")):
        write_run(home / name, f"seed={seed}", accuracy=0.9)
    assert rows(ask("compare", "a/first", "b/first", "b/second").out)["a/first"] == ["b/first", "b/second"]
    assert drawn == ["a/first", "b/first", "b/second"]


@pytest.mark.parametrize(("columns", "tables"), [(50, 2), (80, 1), (200, 1)])
def test_the_table_fits_the_terminal(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch, columns: int, tables: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"2026-01-0{number}T00-00-00Z-3f9{number}" for number in range(1, 4)]
    names.append("a-long-name-of-a-run-with-the-second-network")
    for number, name in enumerate(names):
        values: dict[str, Any] = {"status": Status.failed, "error": "a long reason " * 9} if number else {}
        settings = (f"seed={number}", f"train.learning_rate=0.00{number + 1}")
        write_run(home / "runs" / name, *settings, accuracy=None if number else 0.9, **values)
    lines = ask("compare", *names).out.splitlines()
    assert max(map(len, lines)) <= columns
    shown = [line.split() for line in lines]
    rates = [cells[1:] for cells in shown if cells[:1] == ["train.learning_rate"]]
    assert len(rates) == tables
    assert " ".join(chain(*rates)) == "0.001 0.002 0.003 0.004"
    assert sum(cells[:1] == ["error"] for cells in shown) == tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "compare needs at least two different RUNs"),
        ("a", "compare needs at least two different RUNs"),
        ("a runs/a latest", "compare needs at least two different RUNs"),
        ("a b --picture p.pdf", "--picture=p.pdf: the name must end in .png"),
        ("a nowhere", "run nowhere: not found under runs"),
        ("a b seed=1", "compare does not take seed=1"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask: Ask, home: Path, arguments: str, message: str) -> None:
    write_run(home / "runs" / "a", accuracy=0.9)
    assert refusal(ask("compare", *arguments.split()))[0] == message
    assert [path.name for path in home.iterdir()] == ["runs"]


def test_a_picture_that_cannot_be_written_exits_4(ask: Ask, home: Path) -> None:
    for name in "ab":
        write_run(home / "runs" / name, accuracy=0.9)
    message, _ = refusal(ask("compare", "a", "b", "--picture=nowhere/p.png"), 4)
    assert message == "cannot write nowhere/p.png: No such file or directory"


def test_equal_curves_make_equal_pictures(tmp_path: Path) -> None:
    lost = dataclasses.replace(ROW, epoch=2, loss=float("nan"), val_loss=float("nan"))
    for name in ("one.png", "two.png"):
        plots.comparison([("a", [ROW, lost]), ("b", [ROW])], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    plots.comparison([("a", [ROW]), ("b", [ROW])], tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()
