"""The geometry of the learning curves.

page.html draws them as SVG. Lengths are in the units of the drawing, which is WIDTH x HEIGHT with its origin
at the top left.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from mnist_cnn.result import percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnist_cnn.result import EpochRow

    Measure = Literal["loss", "accuracy"]
    Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 548, 12, 276
"""The edges of the area between the axes."""
MAX_POINTS = 1000
"""Most points of a line.

More would overlap, and make the page large.
"""
MAX_EPOCHS = 200
"""Most epochs with a tooltip and a row.

Of a longer history, every nth epoch has them.
"""
MAX_MARKERS = 60
X_TICKS, Y_TICKS = 8, 6
LOG_SCALE_FROM = 10.0
"""Ratio of largest to smallest loss for logarithmic scales."""
MAX_FINE_DECADES = 4
"""Most decades with ticks at 2 and 5."""
LEAST_RANGE = 0.01
"""Of the accuracies on a scale."""
LEAST_SHARE = 1e-9
"""Least room on a scale, relative to its numbers.

A float has 16 digits.
"""
UNITS = {"loss": "cross-entropy in nats", "accuracy": "fraction of correct predictions"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on an axis.

    The axis goes from `start` to `end`.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return a value's place.

        A place far outside of the axis is moved nearer.
        """
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = min(max((value - low) / (high - low), -1.0), 2.0)
        return round(self.start + share * (self.end - self.start), 1)


@dataclasses.dataclass(frozen=True)
class Tick:
    """A number beside an axis."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class Epoch:
    """An epoch in a chart.

    Its column begins at `left`; its marker is at `x` and `y`; `text` has its values.
    """

    left: float
    width: float
    x: float
    y: float
    radius: int
    text: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart over the epochs.

    `training` and `held_out` are the paths of its lines.
    """

    name: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    training: str
    held_out: str
    epochs: tuple[Epoch, ...]


def shown_epochs(count: int, saved: int) -> list[int]:
    """Return the epochs with a tooltip and row.

    They count from 1: every nth, the last, and the saved one.
    """
    return sorted({*range(count, 0, -_stride(count, MAX_EPOCHS)), saved})


def chart(rows: Sequence[EpochRow], measure: Measure, held_out: str, saved: int) -> Chart:
    """Return the chart of a history.

    It has at least one row. `held_out` names the images of `val_*`, and `saved` is the epoch, from 1, whose
    weights are saved.
    """
    training = _thinned(_training_points(rows, measure))
    after = [(float(epoch), float(getattr(row, f"val_{measure}"))) for epoch, row in enumerate(rows, 1)]
    # The first steps of all would press what follows against 100%.
    start = 0.5 if measure == "accuracy" and len(rows) > 1 else 0.0
    values = [value for time, value in (*training, *after) if time >= start]
    x = Scale(0, 1.02 * len(rows), LEFT, RIGHT)
    y = _loss_scale(values) if measure == "loss" else _accuracy_scale(values)
    steps = [step for step in _round_numbers(0, len(rows), X_TICKS) if step == int(step)]
    return Chart(
        name=measure.capitalize(),
        unit=UNITS[measure] + (", logarithmic" if y.is_log else ""),
        x_ticks=tuple(Tick(x(step), f"{step:g}") for step in steps),
        y_ticks=_loss_ticks(y) if measure == "loss" else _accuracy_ticks(y),
        training=_path((x(time), y(value)) for time, value in training),
        held_out=_path((x(time), y(value)) for time, value in _thinned(after)),
        epochs=tuple(_epochs(rows, measure, held_out, saved, x, y)),
    )


def _epochs(  # noqa: PLR0913, PLR0917 - what to draw, and where
    rows: Sequence[EpochRow], measure: Measure, held_out: str, saved: int, x: Scale, y: Scale
) -> Iterable[Epoch]:
    shown = shown_epochs(len(rows), saved)
    width = (x(len(rows)) - x(0)) / len(shown)
    for number in shown:
        row = rows[number - 1]
        value, training = getattr(row, f"val_{measure}"), getattr(row, measure)
        texts = [f"{each:.4f}" if measure == "loss" else percent(each) for each in (value, training)]
        yield Epoch(
            left=round(x(number) - width / 2, 1),
            width=round(width, 1),
            x=x(number),
            y=y(value),
            radius=5 if number == saved else 3 if len(shown) <= MAX_MARKERS else 0,
            text=f"epoch {number}: {held_out} {texts[0]}, training {texts[1]}",
        )


def _training_points(rows: Sequence[EpochRow], measure: Measure) -> Points:
    """Return the means over parts of the epochs.

    Each is in the middle of its part.
    """
    points: list[tuple[float, float]] = []
    for before, row in enumerate(rows):
        parts: Sequence[float] = getattr(row, f"{measure}_parts") or (getattr(row, measure),)
        points += [(before + (part + 0.5) / len(parts), mean) for part, mean in enumerate(parts)]
    return points


def _thinned(points: Points) -> Points:
    """Return every nth point, and the last."""
    return points[:: -_stride(len(points), MAX_POINTS)][::-1]


def _stride(count: int, most: int) -> int:
    return max(math.ceil(count / most), 1)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " ".join(f"{x:g},{y:g}" for x, y in points)


def _loss_scale(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    if low > 0 and high > LOG_SCALE_FROM * low:
        return Scale(low / 1.1, high * 1.1, BOTTOM, TOP, is_log=True)
    return _with_room(low, high, 0.05 * (high - low) or abs(high))


def _with_room(low: float, high: float, room: float) -> Scale:
    """Return a scale that leaves `room` on both sides.

    Leaves more if a float would not notice it.
    """
    room = max(room, LEAST_SHARE * max(abs(low), abs(high)), LEAST_SHARE)
    return Scale(low - room, high + room, BOTTOM, TOP)


def _loss_ticks(scale: Scale) -> tuple[Tick, ...]:
    ticks = _round_numbers(scale.low, scale.high, Y_TICKS)
    if scale.is_log:
        powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)))
        digits = (1, 2, 5) if len(powers) <= MAX_FINE_DECADES else (1,)
        ticks = [
            digit * 10.0**power for power in powers[:: _stride(len(powers), Y_TICKS)] for digit in digits
        ]
    return tuple(Tick(scale(tick), f"{tick:g}") for tick in ticks if scale.low <= tick <= scale.high)


def _accuracy_scale(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    return _with_room(low, high, max(0.05 * (high - low), (LEAST_RANGE - (high - low)) / 2))


def _accuracy_ticks(scale: Scale) -> tuple[Tick, ...]:
    """Return an accuracy scale's ticks, up to 100%."""
    ticks = _round_numbers(scale.low, scale.high, Y_TICKS)
    return tuple(Tick(scale(tick), f"{100 * tick:.4g}%") for tick in ticks if tick <= 1)


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Return about `most` evenly spaced round numbers.

    They lie from `low` to `high`.
    """
    smallest = (high - low) / most
    power = 10.0 ** math.floor(math.log10(smallest))
    step = next((digit * power for digit in (1, 2, 5) if digit * power >= smallest), 10 * power)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
