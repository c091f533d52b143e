"""Progress and durations as text."""

from __future__ import annotations

import pytest

from mnist_cnn.result import Progress
from mnist_cnn.terminal.log_stream import describe_progress, describe_seconds


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
