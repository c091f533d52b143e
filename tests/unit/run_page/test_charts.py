"""The geometry of the learning curves."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from helpers.records import ROW
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_cnn.run_page import charts

if TYPE_CHECKING:
    from mnist_cnn.result import EpochRow

MEASURES = ("loss", "accuracy")
NUMBERS = st.floats(-1e100, 1e100) | st.floats(0, 1) | st.sampled_from([0.0, 1.0])


def row(epoch: int, **values: Any) -> EpochRow:
    return dataclasses.replace(ROW, epoch=epoch, **values)


def rows(*losses: float) -> list[EpochRow]:
    return [row(epoch, loss=loss, val_loss=loss) for epoch, loss in enumerate(losses, 1)]


def points(path: str) -> list[tuple[float, float]]:
    assert re.fullmatch(r"M-?\d+(\.\d)?,-?\d+(\.\d)?( -?\d+(\.\d)?,-?\d+(\.\d)?)*", path)
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30), st.sampled_from(MEASURES))
def test_any_history_is_drawn_within_the_axes(
    values: list[tuple[float, float]], measure: Literal["loss", "accuracy"]
) -> None:
    history = [
        row(1, loss=value, accuracy=value, val_loss=after, val_accuracy=after) for value, after in values
    ]
    drawn = charts.chart(history, measure, "test", len(history))
    for x, _ in (*points(drawn.training), *points(drawn.held_out)):
        assert charts.LEFT <= x <= charts.RIGHT
    for x, y in points(drawn.held_out):
        assert measure == "accuracy" or charts.TOP <= y <= charts.BOTTOM, x
    assert all(charts.TOP <= tick.at <= charts.BOTTOM for tick in drawn.y_ticks)
    assert all(charts.LEFT <= tick.at <= charts.RIGHT for tick in drawn.x_ticks)
    assert len(drawn.y_ticks) <= 14
    assert 2 <= len(drawn.x_ticks) <= charts.X_TICKS + 1


def test_the_scale_of_losses_is_logarithmic_if_they_differ_a_lot() -> None:
    near, far = (charts.chart(rows(1.0, last), "loss", "test", 2) for last in (0.2, 0.01))
    assert (near.unit, far.unit) == ("cross-entropy in nats", "cross-entropy in nats, logarithmic")
    assert [tick.text for tick in near.y_ticks] == ["0.2", "0.4", "0.6", "0.8", "1"]
    assert [tick.text for tick in far.y_ticks] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
    gaps = {round(low.at - high.at) for low, high in zip(far.y_ticks[::3], far.y_ticks[3::3], strict=False)}
    assert len(gaps) == 1  # the powers of ten are evenly spaced


def test_accuracies_have_no_tick_above_100_percent_and_ignore_the_first_steps() -> None:
    history = [
        dataclasses.replace(row(1, accuracy=0.98, val_accuracy=0.99), accuracy_parts=(0.1, 0.97)),
        row(2, accuracy=0.99, val_accuracy=1.0),
    ]
    drawn = charts.chart(history, "accuracy", "test", 2)
    assert [tick.text for tick in drawn.y_ticks] == ["97%", "98%", "99%", "100%"]
    assert points(drawn.training)[0][1] > charts.BOTTOM  # clipped, where the page draws it
    perfect = charts.chart([row(1, accuracy=1.0, val_accuracy=1.0)], "accuracy", "test", 1)
    assert [tick.text for tick in perfect.y_ticks] == ["99.6%", "99.8%", "100%"]


def test_each_epoch_has_its_values_and_the_saved_one_a_larger_marker() -> None:
    drawn = charts.chart(rows(0.5, 0.3, 0.4), "loss", "validation", 2)
    assert drawn.epochs[1].text == "epoch 2: validation 0.3000, training 0.3000"
    assert [epoch.radius for epoch in drawn.epochs] == [3, 5, 3]
    for left, right in zip(drawn.epochs, drawn.epochs[1:], strict=False):
        assert left.left + left.width == pytest.approx(right.left, abs=0.2)
        assert left.left < left.x < right.left


def test_a_long_history_is_thinned_and_keeps_its_end_and_the_saved_epoch() -> None:
    history = rows(*(1 / epoch for epoch in range(1, 5001)))
    drawn = charts.chart(history, "loss", "test", 1234)
    assert charts.MAX_EPOCHS <= len(drawn.epochs) <= charts.MAX_EPOCHS + 1
    assert len(points(drawn.training)) <= charts.MAX_POINTS
    assert points(drawn.held_out)[-1][0] == pytest.approx(charts.RIGHT, abs=10)
    shown = charts.shown_epochs(5000, 1234)
    assert 1234 in shown
    assert shown[-1] == 5000
    assert {epoch.radius for epoch in drawn.epochs} == {0, 5}
