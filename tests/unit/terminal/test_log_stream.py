"""Progress and durations as text."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from helpers.records import ROW, write_receipt, write_result

from mnist_cnn.backend import Status
from mnist_cnn.result import Progress
from mnist_cnn.terminal.log_stream import describe_progress, describe_seconds, epochs_and_time

if TYPE_CHECKING:
    from pathlib import Path


def test_progress_fits_a_terminal_of_80_columns() -> None:
    progress = Progress("running", 12, 12, 468, 469, 0.0262, 0.9918, 2150.4, 1.2)
    line = describe_progress(progress)
    expected = "epoch 12/12 step 468/469 loss 0.0262 accuracy 99.18% 2,150 images/s 0:01 left"
    assert line == expected
    assert len(line) + 2 <= 80  # 2 for the spinner
    assert describe_progress(Progress("finalizing")) == "finalizing"


def test_after_its_last_step_an_epoch_is_evaluating() -> None:
    progress = Progress("running", 1, 12, 469, 469, 0.0262, 0.9918, 2150.4, 1.2)
    assert describe_progress(progress) == "epoch 1/12 step 469/469 loss 0.0262 accuracy 99.18% evaluating"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (307, "5:07"), (3599.7, "1:00:00"), (36061, "10:01:01")],
)
def test_durations_are_shown_as_on_a_clock(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


@pytest.mark.parametrize(
    ("started", "ended", "epochs", "text"),
    [
        (100.0, 112.0, 1, "1 epoch in 0:12 (training: 0:04)"),
        (100.0, 104.1, 2, "2 epochs in 0:04"),
        (100.0, 90.0, 2, "2 epochs in 0:04"),  # the clock of the node is late
        (None, 112.0, 2, "2 epochs (training: 0:04)"),  # started by an earlier version
        (100.0, None, 2, "2 epochs (training: 0:04)"),
    ],
)
def test_the_time_of_a_run_is_all_of_it_and_names_the_training_apart(
    tmp_path: Path, started: float | None, ended: float | None, epochs: int, text: str
) -> None:
    receipt = write_receipt(tmp_path, Status.completed, started=started)
    result = dataclasses.replace(
        write_result(tmp_path), training_seconds=4.0, history=(ROW,) * epochs, ended=ended
    )
    assert epochs_and_time(result, receipt) == text
