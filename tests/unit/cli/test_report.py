"""What is said about the epochs and the classes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.records import ROW, write_result

from mnist_cnn import run_folder
from mnist_cnn.cli import report


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ([], None),
        ([{"precision": None, "recall": None, "f1": None, "support": 0}], None),
        (
            [
                {"precision": 0.5, "recall": 0.75, "f1": 0.6, "support": 4},
                {"precision": None, "recall": 0.0, "f1": 0.0, "support": 3},
                {"precision": None, "recall": None, "f1": None, "support": 0},
            ],
            "weakest class: 1, F1 0.00% (precision none, recall 0.00%)",
        ),
    ],
)
def test_the_weakest_class_has_the_lowest_f1(
    classes: list[dict[str, float | None]], line: str | None
) -> None:
    assert report.weakest_class(classes) == line


@pytest.mark.parametrize(("epoch", "text"), [(None, ""), (12, ""), (9, "; saved: epoch 9")])
def test_an_earlier_epoch_that_is_saved_is_named(epoch: int | None, text: str) -> None:
    assert report.saved(epoch, 12) == text


def test_a_run_without_a_result_shows_its_history_so_far(tmp_path: Path) -> None:
    write_result(tmp_path)
    assert [row["epoch"] for row in report.describe_training(tmp_path)["history"]] == [1]
    (tmp_path / run_folder.RESULT).write_text("{}")
    assert report.describe_training(tmp_path) == {
        "history": [],
        "saved_epoch": None,
        "classes": [],
        "warnings": [],
    }
    run_folder.write_history(tmp_path, [ROW, ROW])
    assert len(report.describe_training(tmp_path)["history"]) == 2
