"""The plots: every result gives a legible PNG, with the same bytes every time."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg as Canvas
from PIL import Image

from mnist_cnn.errors import BackendError
from mnist_cnn.result import EpochRow
from mnist_cnn.training import plots
from mnist_cnn.training.scores import confusion_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray


def rows(epochs: int) -> list[EpochRow]:
    return [
        EpochRow(e, 0.3 / e, 1 - 0.1 / e, 0.1 / e + 0.001 * e, 1 - 0.04 / e, 1.0, 2.5)
        for e in range(1, epochs + 1)
    ]


def pixels(path: Path) -> NDArray[np.uint8]:
    """Read a PNG and check that it shows something."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        shown = np.asarray(image.convert("RGB"))
    assert min(shown.shape[:2]) > 200
    assert np.ptp(shown) > 100
    return shown


def drawn(draw: Callable[..., None], *arguments: Any, **keywords: Any) -> Figure:
    """Return the figure that a plot saves."""
    with patch.object(Canvas, "print_png", autospec=True, side_effect=Canvas.print_png) as saved:
        draw(*arguments, **keywords)
    figure: Figure = saved.call_args.args[0].figure
    return figure


def texts(figure: Figure) -> list[str]:
    """Return what is written into the plot, beside axes and titles."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def points(line: Line2D) -> list[tuple[float, float]]:
    xydata: Any = line.get_xydata()
    return [(float(x), float(y)) for x, y in xydata]


def has_colour(shown: NDArray[np.uint8], colour: str) -> bool:
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.abs(shown.astype(int) - rgb).max(axis=2) < 12).any())


def probabilities(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return softmax-like rows that predict `predicted`, each less confident than the row before."""
    table = np.full((len(labels), 10), 0.01, np.float32)
    table[np.arange(len(labels)), predicted] = np.linspace(0.9, 0.5, len(labels))
    return table


HISTORIES = {
    "one epoch": rows(1),
    "hundreds": rows(300),
    "diverged": [*rows(2), EpochRow(3, math.nan, 0.1, math.inf, 0.1, 1.0, 2.5)],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_curves_of_any_history_are_drawn(tmp_path: Path, history: list[EpochRow]) -> None:
    plots.history(history, tmp_path / "history.png", held_out="validation")
    shown = pixels(tmp_path / "history.png")
    assert has_colour(shown, plots.TRAINING)
    assert has_colour(shown, plots.HELD_OUT)


def test_one_epoch_shows_the_training_within_it(tmp_path: Path) -> None:
    parts = (2.2, 1.0, 0.4, 0.3)
    row = dataclasses.replace(rows(1)[0], loss_parts=parts, accuracy_parts=(0.3, 0.8, 0.9, 0.95))
    figure = drawn(plots.history, [row], tmp_path / "history.png", held_out="test")
    for axes, expected in zip(figure.axes, (parts, row.accuracy_parts), strict=True):
        training, held_out, _ = axes.lines
        assert points(training) == list(zip((0.125, 0.375, 0.625, 0.875), expected, strict=True))
        assert [epoch for epoch, _ in points(held_out)] == [1]


def test_the_saved_epoch_is_circled_and_the_best_is_named(tmp_path: Path) -> None:
    history = [*rows(3), EpochRow(4, 0.3, 0.9, 5.0, 0.2, 1.0, 2.5)]
    figure = drawn(plots.history, history, tmp_path / "history.png", held_out="test")
    assert [points(axes.lines[-1]) for axes in figure.axes] == [[(4, 5.0)], [(4, 0.2)]]
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles == ["last 5.0000, best 0.0363 (epoch 3)", "last 20.00%, best 98.67% (epoch 3)"]


def test_an_earlier_epoch_that_is_saved_is_circled_and_named(tmp_path: Path) -> None:
    history = [*rows(3), EpochRow(4, 0.3, 0.9, 5.0, 0.2, 1.0, 2.5)]
    figure = drawn(plots.history, history, tmp_path / "history.png", held_out="validation", saved_epoch=3)
    assert [points(axes.lines[-1])[0][0] for axes in figure.axes] == [3, 3]
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles == ["saved: epoch 3, 0.0363 · last 5.0000", "saved: epoch 3, 98.67% · last 20.00%"]
    assert figure.get_supxlabel().endswith("circled: epoch 3, whose model is saved")


@pytest.mark.parametrize("accuracies", [(0.98, 0.9913), (0.1, 0.1), (1.0, 1.0), (0.0, 1.0), (0.5, 0.999)])
def test_the_accuracy_axis_is_labelled_beyond_the_curve(
    tmp_path: Path, accuracies: tuple[float, ...]
) -> None:
    history = [EpochRow(e, 0.1, a, 0.1, a, 1.0, 2.5) for e, a in enumerate(accuracies, 1)]
    axes = drawn(plots.history, history, tmp_path / "history.png", held_out="test").axes[1]
    assert "accuracy" in axes.get_ylabel()
    ticks, (bottom, top) = axes.get_yticks(), axes.get_ylim()
    assert bottom <= ticks[0] <= min(accuracies)
    assert max(accuracies) <= ticks[-1] <= min(top, 1)
    assert len(ticks) > 2


SIZES = [(2, 1000), (20, 1000), (21, 1000), (256, 1000), (10, 0), (10, 1), (10, 3)]


@pytest.mark.parametrize(("num_classes", "count"), SIZES)
def test_a_confusion_matrix_of_any_size_is_drawn(tmp_path: Path, num_classes: int, count: int) -> None:
    """With few images, most classes are absent."""
    labels = np.random.default_rng(0).integers(0, num_classes, count)
    predicted = np.where(np.arange(count) % 7, labels, (labels + 1) % num_classes)
    plots.confusion(confusion_counts(labels, predicted, num_classes), tmp_path / "confusion.png")
    assert max(pixels(tmp_path / "confusion.png").shape) < 2000


def test_a_single_mistake_among_thousands_is_visible(tmp_path: Path) -> None:
    labels = np.arange(10_000) % 10
    predicted = labels.copy()
    reddish = []
    for _ in range(2):
        plots.confusion(confusion_counts(labels, predicted, 10), tmp_path / "confusion.png")
        shown = pixels(tmp_path / "confusion.png").astype(int)
        reddish.append((shown[..., 0] - shown[..., 2] > 30).sum())
        predicted[0] = 7
    assert reddish[1] - reddish[0] > 1000  # besides the scale


def test_the_colour_of_a_mistake_does_not_depend_on_the_others(tmp_path: Path) -> None:
    labels = np.arange(10_000) % 10
    few, many = labels.copy(), labels.copy()
    few[[0, 1]] = 7
    many[labels == 5] = 3
    many[[0, 1]] = 7
    colours = []
    for predicted in (few, many):
        figure = drawn(plots.confusion, confusion_counts(labels, predicted, 10), tmp_path / "confusion.png")
        column, row = figure.axes[0].transData.transform((6.7, 0)).astype(int)
        colours.append(pixels(tmp_path / "confusion.png")[::-1][row, column])
    assert np.array_equal(*colours)


def test_rows_are_true_columns_predicted_with_recall_and_precision(tmp_path: Path) -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 1, 1])
    figure = drawn(plots.confusion, confusion_counts(labels, predicted, 3), tmp_path / "confusion.png")
    counts = {text.get_position(): text.get_text() for text in figure.axes[0].texts[:4]}
    assert counts == {(0, 0): "3", (1, 0): "1", (1, 1): "2", (1, 2): "1"}  # column, row
    recalls, precisions = ["75.00%", "100.00%", "0.00%"], ["100.00%", "50.00%", "none"]
    assert texts(figure)[4:] == ["recall", *recalls, "precision", *precisions]
    assert figure.axes[0].get_xlabel() == "predicted class"
    assert figure.axes[0].get_ylabel() == "true class"


@pytest.mark.parametrize("wrong", [1, 6, 25, 100])
def test_at_most_25_mistakes_are_drawn(tmp_path: Path, wrong: int) -> None:
    labels = np.arange(120) % 10
    predicted = np.where(np.arange(120) < wrong, (labels + 1) % 10, labels)
    images = np.zeros((120, 28, 28), np.uint8)  # black tiles on white
    plots.mistakes(images, labels, probabilities(labels, predicted), tmp_path / "mistakes.png")
    black = (pixels(tmp_path / "mistakes.png") == 0).all(axis=2)
    tile_rows = np.flatnonzero(np.diff(black.mean(axis=1) > 0.1, prepend=False, append=False)).size // 2
    tile_area = black.sum() / min(wrong, 25)
    assert tile_rows == math.ceil(min(wrong, 25) / 5)
    assert 130**2 < tile_area < 200**2


def test_the_most_confident_mistake_comes_first(tmp_path: Path) -> None:
    labels = np.zeros(30, np.int64)
    predicted = np.ones(30, np.int64)
    images = np.zeros((30, 28, 28), np.uint8)
    images[29] = 200
    confidence = probabilities(labels, predicted)
    confidence[29, 1] = 0.99
    plots.mistakes(images, labels, confidence, tmp_path / "mistakes.png")
    grey = (pixels(tmp_path / "mistakes.png") == 200).all(axis=2)
    places = np.argwhere(grey)
    assert len(places) > 130**2
    assert places[:, 1].max() < grey.shape[1] / 5
    assert places[:, 0].max() < grey.shape[0] / 4


def test_a_mistake_has_its_index_and_both_probabilities(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 0])
    table = np.array([[0.6, 0.4], [0.97, 0.03], [0.0004, 0.9996]])
    figure = drawn(plots.mistakes, images, labels, table, tmp_path / "mistakes.png")
    surest = ["test image 2", "predicted 1 (> 99.9%)", "true 0 (< 0.1%)"]
    assert texts(figure) == [*surest, "test image 1", "predicted 0 (97.0%)", "true 1 (3.0%)"]


@pytest.mark.parametrize("name", ["$x^{y$", "a class with a long name", "犬"])
def test_classes_may_have_any_name(tmp_path: Path, name: str) -> None:
    labels, predicted = np.array([0, 1]), np.array([1, 0])
    images = np.zeros((2, 28, 28), np.uint8)
    names = [name, *"bcdefghij"]
    figure = drawn(
        plots.mistakes, images, labels, probabilities(labels, predicted), tmp_path / "m.png", names
    )
    shown = [text for text in texts(figure) if text.startswith(name[:10])]
    assert len(shown) == 2
    plots.confusion(confusion_counts(labels, predicted, 10), tmp_path / "c.png", names)
    pixels(tmp_path / "c.png")


@pytest.mark.parametrize("number", [0, 10])
def test_a_plot_without_mistakes_says_so(tmp_path: Path, number: int) -> None:
    labels = np.arange(number)
    images = np.zeros((number, 28, 28), np.uint8)
    plots.mistakes(images, labels, probabilities(labels, labels), tmp_path / "mistakes.png")
    assert has_colour(pixels(tmp_path / "mistakes.png"), plots.CORRECT)


def draw_all(folder: Path) -> list[bytes]:
    labels = np.arange(100) % 10
    predicted = np.where(np.arange(100) % 9, labels, (labels + 3) % 10)
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28)).astype(np.uint8)
    plots.history(rows(5), folder / "history.png", held_out="test")
    plots.confusion(confusion_counts(labels, predicted, 10), folder / "confusion.png")
    plots.mistakes(images, labels, probabilities(labels, predicted), folder / "mistakes.png")
    return [(folder / f"{name}.png").read_bytes() for name in ("history", "confusion", "mistakes")]


def test_equal_input_gives_equal_bytes_in_any_style(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The user's style and logging stay as they were, and no temporary file is left."""
    import matplotlib as mpl

    caplog.set_level(logging.INFO, "matplotlib")
    first = draw_all(tmp_path)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.bbox": "tight"}):
        assert draw_all(tmp_path) == first
        assert mpl.rcParams["font.size"] == 20
    assert logging.getLogger("matplotlib").level == logging.INFO
    assert all(b"tEXt" not in content for content in first)
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "history.png", "mistakes.png"}
    with pytest.raises(BackendError, match="cannot write"):
        draw_all(tmp_path / "gone")


def test_drawing_prints_nothing_and_never_imports_pyplot(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from mnist_cnn.training import plots
assert not {"matplotlib", "numpy"} & set(sys.modules)
plots.history([], Path("history.png"), held_out="test")  # an empty history is drawn too
assert not {"matplotlib.pyplot", "tensorflow"} & set(sys.modules)
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG_"))}
    environment = {**inherited, "HOME": os.devnull}
    command = [sys.executable, "-c", program]
    output = subprocess.check_output(command, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment)
    assert output == b""
    assert (tmp_path / "history.png").is_file()
