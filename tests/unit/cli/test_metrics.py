"""The metrics of `train.metrics` are shown wherever the accuracy is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.records import ROW, write_run

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli.notebook import describe_history
from mnist_cnn.training.train import describe_epoch

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.cli import Ask

    from mnist_cnn.result import EpochRow

METRICS = ("train.metrics=[f1_score,auc]", "data.validation=100")


@pytest.fixture
def history(home: Path) -> tuple[EpochRow, ...]:
    """The history of run `a`, which keeps its best epoch, the first; run `b` measures nothing more."""
    rows = tuple(
        dataclasses.replace(ROW, epoch=epoch, metrics={"f1_score": 0.5 / epoch, "auc": 0.9 / epoch})
        for epoch in (1, 2)
    )
    write_run(home / "runs" / "a", *METRICS, accuracy=0.9, history=rows, saved_epoch=1)
    write_run(home / "runs" / "b", accuracy=0.8)
    return rows


@pytest.mark.usefixtures("history")
def test_list_has_a_column_for_each_metric(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    heads, _, *rows = ask("list").out.splitlines()
    assert heads.split()[2:5] == ["accuracy", "f1_score", "auc"]
    assert sorted(row.split()[2:5] for row in rows)[1] == ["90.00%", "0.5000", "0.9000"]
    measured = {row["run"]: row["metrics"] for row in ask("list", "--json").json()}
    assert measured == {"a": {"f1_score": 0.5, "auc": 0.9}, "b": {}}


@pytest.mark.usefixtures("history")
def test_status_names_the_images_and_the_saved_epoch(ask: Ask) -> None:
    assert "\nf1_score 0.5000, auc 0.9000 (validation images, epoch 1)\n" in ask("status", "a").out
    assert "f1_score" not in ask("status", "b").out


def test_status_shows_the_newest_epoch_of_a_run_without_a_result(
    ask: Ask, home: Path, history: tuple[EpochRow, ...]
) -> None:
    write_run(home / "runs" / "c", *METRICS, status=Status.paused)
    run_folder.write_history(home / "runs" / "c", history)
    assert "f1_score 0.2500, auc 0.4500 (validation images, epoch 2)" in ask("status", "c").out


@pytest.mark.usefixtures("history")
def test_compare_has_a_row_for_each_metric(ask: Ask) -> None:
    rows = [line.split() for line in ask("compare", "a", "b").out.splitlines()]
    assert ["f1_score", "0.5", "-"] in rows


@pytest.mark.usefixtures("history")
def test_the_page_shows_the_saved_epochs_metrics_first(ask: Ask, home: Path) -> None:
    assert ask("report", "a").code == 0
    assert "validation f1_score 0.5000" in (home / "runs" / "a" / "report.html").read_text(encoding="utf-8")


def test_the_live_lines_and_the_notebook_show_them(history: tuple[EpochRow, ...]) -> None:
    line = describe_epoch(history[0], launch.make_job(*METRICS))
    assert "(val 90.00%)  val f1_score 0.5000, auc 0.9000  1.5 s" in line
    assert "validation f1_score" in describe_history(history, "validation")["text/html"]
