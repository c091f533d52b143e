"""PNG plots: learning curves, confusion matrix, mistakes.

Equal input gives equal bytes with the same version of Matplotlib, whatever style the user has configured. All
functions write the file atomically, and raise BackendError if it cannot be written.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.files import atomic
from mnist_cnn.result import percent
from mnist_cnn.training.scores import class_scores

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mnist_cnn.result import EpochRow

TRAINING, HELD_OUT = "#7a8ea6", "#d1495b"  # distinct in greyscale and for colour-blind readers too
CORRECT, WRONG, FEW_WRONG = "#2a6f97", "#c0452b", "#fae0d8"
MANY_WRONG = 0.1  # the share of a class from which on mistakes have the darkest colour
INK, FAINT, LINES = "#22272e", "#6b7480", "#e7eaee"
MAX_MARKED_EPOCHS = 40  # more markers overlap
MAX_DIVIDED_EPOCHS = 2  # the axis has fractions of these
MAX_NAME = 14
"""The most characters of a class's name in a picture."""
MAX_NUMBERED_CLASSES = 20  # more numbers do not fit into the cells
LOG_SCALE_FROM = 10.0  # times the smallest loss is the largest one
LEAST_RANGE = 0.01  # of accuracies
MAX_MISTAKES = 25
COLUMNS = 5
TILE_WIDTH, TILE_HEIGHT = 1.2, 1.56  # of an image with its texts, if the image is 1 x 1
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of Matplotlib, so that every machine draws the same
    "font.size": 10,
    "text.parse_math": False,  # a class or run may be called $x^{y$
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b6bdc6",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINES,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "figure.dpi": 120,
}


def history(rows: Sequence[EpochRow], path: Path, *, held_out: str, saved_epoch: int | None = None) -> None:
    """Draw loss and accuracy over the epochs.

    `held_out` names the images of `val_*`: "test" or "validation". A curve has a gap at a value that is not
    finite. The saved epoch, by default the last one, is circled.
    """
    saved = len(rows) if saved_epoch is None else saved_epoch
    with drawing(path, 10, 4.6) as figure:
        left, right = figure.subplots(1, 2)
        losses = _curves(left, rows, "loss", held_out, saved)
        accuracies = _curves(right, rows, "accuracy", held_out, saved)
        _title(left, "Loss", [row.val_loss for row in rows], min, "{:.4f}".format, saved)
        _title(right, "Accuracy", [row.val_accuracy for row in rows], max, percent, saved)
        _scale_losses(left, [loss for _, loss in losses])
        start = 0.5 if len(rows) > 1 else 0  # the first steps would press all that follows against 100%
        _scale_accuracies(right, [accuracy for time, accuracy in accuracies if time >= start])
        left.legend(frameon=False, loc="best")
        when = f"training: while the weights change · {held_out}: after each epoch"
        circled = "the last epoch" if saved == len(rows) else f"epoch {saved}"
        figure.supxlabel(f"{when} · circled: {circled}, whose model is saved", fontsize=8, color=FAINT)


def comparison(runs: Sequence[tuple[str, Sequence[EpochRow]]], path: Path) -> None:
    """Draw loss and accuracy of several runs.

    Curves are of held-out images and, dotted, of training. `runs` are the names that the legend shows, and
    histories. A curve has a gap at a value that is not finite.
    """
    longest = max(len(rows) for _, rows in runs)
    with drawing(path, 10, 4.6) as figure:
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "loss"), (right, "accuracy")):
            axes.set_title(name.capitalize(), loc="left")
            points = [
                point
                for number, (label, rows) in enumerate(runs)
                for point in _pair(axes, rows, name, label, f"C{number}")
            ]
            _label_epochs(axes, longest)
            if name == "loss":
                _scale_losses(axes, [value for _, value in points])
            else:
                start = 0.5 if longest > 1 else 0
                _scale_accuracies(axes, [value for time, value in points if time >= start])
        left.legend(frameon=False, loc="best")
        note = "lines: held-out images, after each epoch · dotted: training images, while the weights change"
        figure.supxlabel(note, fontsize=8, color=FAINT)


def _pair(
    axes: Axes, rows: Sequence[EpochRow], name: str, label: str, colour: str
) -> list[tuple[float, float]]:
    """Draw a run's two curves; return all finite points."""
    training, after = _points(rows, name)
    looks: dict[str, Any] = {"marker": "o" if len(rows) <= MAX_MARKED_EPOCHS else None, "markersize": 4}
    axes.plot(*_columns(training), color=colour, linestyle="dotted", linewidth=1)
    axes.plot(*_columns(after), color=colour, linewidth=2, label=label, **looks)
    return [(time, value) for time, value in (*training, *after) if math.isfinite(value)]


def confusion(counts: NDArray[np.int64], path: Path, names: Sequence[str] = ()) -> None:
    """Draw a confusion matrix.

    Rows are true classes, columns predicted ones.

    The colours are shares of the row, on fixed scales, so that two matrices can be compared. Mistakes have
    their own scale, because the few of a good model would be invisible otherwise.

    `counts` are those of `scores.confusion_counts`. Up to 20 classes, they are written into the cells, and
    recall and precision beside them.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    num_classes = len(counts)
    correct, total = int(np.trace(counts)), int(counts.sum())
    numbered = num_classes <= MAX_NUMBERED_CLASSES
    side = max(4.6, 2.4 + 0.55 * num_classes) if numbered else 8.5
    with drawing(path, side + 1.2, side) as figure:
        axes = figure.subplots()
        accuracy = _written(correct / total if total else None)
        axes.set_title(f"Accuracy {accuracy}: {correct:,} of {_images(total)} correct", pad=22)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.grid(visible=False)
        _colour_cells(figure, axes, counts)
        if numbered:
            _number_cells(axes, counts)
            if names:
                axes.set_xticks(range(num_classes), [_short(name) for name in names], rotation=90)
                axes.set_yticks(range(num_classes), [_short(name) for name in names])
                axes.tick_params(axis="x", pad=36)  # below the row of precisions
            note = "recall: how much of a true class was found · precision: how much of a prediction is right"
            figure.supxlabel(note, fontsize=8, color=FAINT)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def mistakes(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    probabilities: NDArray[np.floating[Any]],
    path: Path,
    names: Sequence[str] = (),
) -> None:
    """Draw the 25 most confident mistakes.

    Each has its test index, predicted and true class and their probabilities. `images` are uint8 (N, height,
    width), `labels` (N,), `probabilities` floats (N, classes).
    """
    import numpy as np

    predicted = probabilities.argmax(1) if len(labels) else np.zeros(0, np.int64)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    shown = wrong[np.argsort(-confidence, kind="stable")][:MAX_MISTAKES]
    if not shown.size:
        with drawing(path, 8.2, 2.2) as figure:
            text = f"No mistakes in {_images(len(labels))}"
            figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=14, weight="bold", color=CORRECT)
        return
    title = f"{wrong.size:,} mistake{'s' if wrong.size > 1 else ''} in {_images(len(labels))}"
    if wrong.size > MAX_MISTAKES:
        title += f", the {MAX_MISTAKES} most confident"

    note = "test images are numbered from 0"
    guessed, true, small = "predicted ", "true ", 9
    if names:  # which need the room
        note += " · below each: the predicted class, then the true one"
        guessed, true, small = "", "", 8

    def named(label: int) -> str:
        return _short(names[label]) if names else str(label)

    rows = math.ceil(shown.size / COLUMNS)
    with drawing(path, 8.2, 1.0 + 2.05 * rows) as figure:
        figure.suptitle(title, fontsize=11, fontweight="bold")
        axes = figure.subplots()  # one for all images, because each would take 50 ms
        for place, index in enumerate(shown):
            row, column = divmod(place, COLUMNS)
            left, top = column * TILE_WIDTH, row * TILE_HEIGHT
            box = (left, left + 1, top + 1, top)
            axes.imshow(images[index], "gray", vmin=0, vmax=255, interpolation="nearest", extent=box)
            guess, truth = predicted[index], labels[index]
            predicted_as, true_as = (_probability(probabilities[index, label]) for label in (guess, truth))
            lines = (
                (0, 4, f"test image {index}", FAINT, 8),
                (1, -11, f"{guessed}{named(guess)} ({predicted_as})", WRONG, small),
                (1, -23, f"{true}{named(truth)} ({true_as})", CORRECT, small),
            )
            for edge, points, text, colour, size in lines:
                looks: dict[str, Any] = {"ha": "center", "color": colour, "fontsize": size}
                axes.annotate(
                    text, (left + 0.5, top + edge), (0, points), textcoords="offset points", **looks
                )
        axes.set(xlim=(0, COLUMNS * TILE_WIDTH - 0.2), ylim=((rows - 1) * TILE_HEIGHT + 1, 0))
        axes.set_axis_off()
        figure.supxlabel(note, fontsize=8, color=FAINT)


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure; write it to `path` afterwards.

    It is width x height in inches.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about its font cache and folders
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        with mpl.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
            canvas: Any = FigureCanvasAgg(figure)
            yield figure
            with atomic.replacing(path) as temporary:
                # Figure.savefig would draw everything twice.
                canvas.print_png(temporary, metadata={"Software": None})
    finally:
        logger.setLevel(level)


def _curves(
    axes: Axes, rows: Sequence[EpochRow], name: str, held_out: str, saved: int
) -> list[tuple[float, float]]:
    """Draw both curves; return all finite points.

    Circles the saved epoch. The training's means stand in the middle of the part of the epoch that they are
    over.
    """
    training, after = _points(rows, name)
    looks: dict[str, Any] = {"marker": "o" if len(rows) <= MAX_MARKED_EPOCHS else None}
    axes.plot(*_columns(training), color=TRAINING, markersize=3, label="training", **looks)
    axes.plot(*_columns(after), color=HELD_OUT, markersize=5, linewidth=2, label=held_out, **looks)
    ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": HELD_OUT}
    axes.plot(*_columns(after[saved - 1 : saved]), "o", **ring)
    _label_epochs(axes, len(rows))
    return [(time, value) for time, value in (*training, *after) if math.isfinite(value)]


def _points(
    rows: Sequence[EpochRow], name: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return the training's points, and the held-out images'."""
    training: list[tuple[float, float]] = []
    for row in rows:
        parts = getattr(row, f"{name}_parts") or (getattr(row, name),)
        training += [(row.epoch - 1 + (i + 0.5) / len(parts), mean) for i, mean in enumerate(parts)]
    return training, [(float(row.epoch), getattr(row, f"val_{name}")) for row in rows]


def _label_epochs(axes: Axes, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=count > MAX_DIVIDED_EPOCHS, steps=[1, 2, 5, 10]))
    axes.set_xlim(0, max(count, 1) * 1.04)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _title(  # noqa: PLR0913, PLR0917 - the values, and how to write them
    axes: Axes, name: str, values: Sequence[float], best: Any, write: Callable[[float], str], saved: int
) -> None:
    """Write the last held-out value beside the title.

    Adds the saved one, or else the best, if it is another.
    """
    finite = [value for value in values if math.isfinite(value)]
    text = f"last {write(values[-1])}" if finite else "no finite value"
    if saved < len(values):
        text = f"saved: epoch {saved}, {write(values[saved - 1])} · {text}"
    elif finite and (value := best(finite)) != values[-1]:
        text += f", best {write(value)} (epoch {values.index(value) + 1})"
    axes.set_title(name, loc="left")
    axes.set_title(text, loc="right", fontsize=9, fontweight="normal", color=HELD_OUT)


def _scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    """Make the scale logarithmic if losses differ much."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_ylabel("cross-entropy (nats)")
    axes.margins(y=0.08)
    positive = [loss for loss in losses if loss > 0]
    if positive and max(positive) > LOG_SCALE_FROM * min(positive):
        axes.set_ylabel("cross-entropy (nats, log scale)")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")


def _scale_accuracies(axes: Axes, accuracies: Sequence[float]) -> None:
    """End the axis at ticks beyond the accuracies.

    No tick is above 100%.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel("accuracy (fraction correct)")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    lowest, highest = (min(accuracies), max(accuracies)) if accuracies else (0.0, 1.0)
    locator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    if highest - lowest < LEAST_RANGE:
        lowest, highest = lowest - LEAST_RANGE / 2, highest + LEAST_RANGE / 2
    ticks = [round(tick, 6) for tick in locator.tick_values(lowest, highest)]
    ticks = [tick for tick in ticks if 0 <= tick <= 1]
    axes.set_yticks(ticks)
    room = 0.03 * (ticks[-1] - ticks[0])  # for half a marker
    axes.set_ylim(ticks[0] - room, ticks[-1] + room)


def _colour_cells(figure: Figure, axes: Axes, counts: NDArray[np.int64]) -> None:
    """Colour the cells; add a scale for mistakes.

    A colour is the cell's share of its row.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=np.bool_)
    correct = np.where(diagonal, shares, np.nan)  # nothing is drawn at NaN
    wrong = np.where(diagonal | (counts == 0), np.nan, shares)
    colours = LinearSegmentedColormap.from_list("correct", ["white", CORRECT])
    axes.imshow(correct, colours, vmin=0, vmax=1, interpolation="nearest")
    colours = LinearSegmentedColormap.from_list("wrong", [FEW_WRONG, WRONG])
    scale = PowerNorm(0.5, 0, MANY_WRONG, clip=True)
    cells = axes.imshow(wrong, colours, scale, interpolation="nearest")
    ticks = [0.001, 0.01, 0.05, MANY_WRONG]
    bar = figure.colorbar(cells, ax=axes, shrink=0.5, aspect=24, extend="max", ticks=ticks)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    bar.set_label("mistakes: fraction of the true class")
    bar.outline.set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1].rstrip()}…"


def _number_cells(axes: Axes, counts: NDArray[np.int64]) -> None:
    """Write counts into cells; add recall and precision.

    Recall is at the end of each row, precision below each column.
    """
    import numpy as np

    size, of_row, scores = len(counts), counts.sum(1), class_scores(counts)
    for row, column in np.argwhere(counts > 0):
        is_dark = counts[row, column] > of_row[row] * (0.5 if row == column else MANY_WRONG / 2)
        colour = "white" if is_dark else INK
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)
    looks: dict[str, Any] = {"color": CORRECT, "fontsize": 8, "va": "center", "annotation_clip": False}

    def write(text: str, at: tuple[float, float], points: tuple[float, float], ha: str = "center") -> None:
        axes.annotate(text, at, xytext=points, textcoords="offset points", ha=ha, **looks)

    edge = size - 0.5
    write("recall", (edge, -0.5), (28, 10))
    for cell, score in enumerate(scores):
        write(_written(score.recall), (edge, cell), (28, 0))
    write("precision", (-0.5, edge), (-6, -27), ha="right")
    for cell, score in enumerate(scores):
        write(_written(score.precision), (cell, edge), (0, -27))
    axes.hlines(np.arange(size) + 0.5, -0.5, edge, color=LINES, linewidth=0.8)
    axes.vlines(np.arange(size) + 0.5, -0.5, edge, color=LINES, linewidth=0.8)
    axes.set_xticks(range(size))
    axes.set_yticks(range(size))
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color=LINES)
    axes.xaxis.labelpad = 22  # room for the precision


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _written(share: float | None) -> str:
    return "none" if share is None else percent(share)


def _probability(probability: float) -> str:
    """Return a percentage, never rounded to 0% or 100%."""
    if 0 < probability < 0.0005:  # noqa: PLR2004 - rounds down
        return "< 0.1%"
    return "> 99.9%" if 0.9995 <= probability < 1 else f"{probability:.1%}"  # noqa: PLR2004 - rounds up
