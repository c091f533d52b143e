"""PNG plots of a result: learning curves, confusion matrix, mistakes.

Equal input gives equal bytes with the same version of Matplotlib, whatever style the user has configured. All
functions write the file atomically, and raise BackendError if it cannot be written.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mnist_cnn.result import EpochRow

TRAINING, HELD_OUT = "#7a8ea6", "#d1495b"  # distinct in greyscale and for colour-blind readers too
CORRECT, WRONG = "#2a6f97", "#c8553d"
INK, FAINT = "#22272e", "#6b7480"
MAX_MARKED_EPOCHS = 40  # more markers overlap
MAX_NUMBERED_CLASSES = 20  # more numbers do not fit into the cells
MAX_MISTAKES = 25
COLUMNS = 5
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of Matplotlib, so that every machine draws the same
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b6bdc6",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7eaee",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "figure.dpi": 120,
    "savefig.dpi": 120,
}


def history(rows: Sequence[EpochRow], path: Path, *, held_out: str) -> None:
    """Draw loss and accuracy of training and held-out images over the epochs.

    `held_out` names the images of `val_*`: "test" or "validation". A curve has a gap at a value that is not
    finite.
    """
    with _drawing(path, 10, 4.4) as figure:
        from matplotlib.ticker import PercentFormatter  # not earlier: Matplotlib may warn

        left, right = figure.subplots(1, 2)
        epochs = [row.epoch for row in rows]
        for axes, name, best, form in ((left, "loss", min, "{:.4f}"), (right, "accuracy", max, "{:.2%}")):
            held_out_values = [getattr(row, f"val_{name}") for row in rows]
            _curves(axes, epochs, [getattr(row, name) for row in rows], held_out_values, held_out)
            _mark_best(axes, epochs, held_out_values, best, form)
            axes.set_title(name.capitalize(), loc="left")
        left.set_ylabel("cross-entropy (nats)")
        left.legend(frameon=False, loc="best")
        right.yaxis.set_major_formatter(PercentFormatter(1))
        note = f"training: mean over the epoch, as the weights change · {held_out}: after the epoch"
        figure.supxlabel(note, fontsize=8, color=FAINT)


def confusion(labels: NDArray[Any], predicted: NDArray[Any], num_classes: int, path: Path) -> None:
    """Draw how many images of each class were predicted as which class.

    The diagonal is coloured by its share of the row. The other cells have a separate scale, because the few
    mistakes of a good model would be invisible otherwise.

    `labels` and `predicted` are integers (N,) below `num_classes`, which is 2 to 256. Up to 20 classes, the
    counts are written into the cells.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    pairs = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)  # true, predicted
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    correct, total = int(np.trace(counts)), int(counts.sum())
    numbered = num_classes <= MAX_NUMBERED_CLASSES
    side = max(4.6, 2.0 + 0.55 * num_classes) if numbered else 8.5
    with _drawing(path, side + 0.8, side) as figure:
        axes = figure.subplots()
        axes.set_title(f"Accuracy {_share(correct, total)}: {correct:,} of {_images(total)} correct", pad=12)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(visible=False)
        colours = _confusion_colours(shares)
        axes.imshow(colours, interpolation="nearest")
        if numbered:
            _number_cells(axes, counts, colours)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def mistakes(
    images: NDArray[np.uint8], labels: NDArray[Any], probabilities: NDArray[np.floating[Any]], path: Path
) -> None:
    """Draw the 25 most confident mistakes, with true and predicted class and probability.

    `images` are uint8 (N, height, width), `labels` (N,), `probabilities` floats (N, classes).
    """
    import numpy as np

    predicted = probabilities.argmax(1) if len(labels) else np.zeros(0, np.int64)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    shown = wrong[np.argsort(-confidence, kind="stable")][:MAX_MISTAKES]
    if not shown.size:
        with _drawing(path, 8.2, 2.2) as figure:
            text = f"No mistakes in {_images(len(labels))}"
            figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=14, weight="bold", color=CORRECT)
        return
    rows = math.ceil(shown.size / COLUMNS)
    title = f"{wrong.size:,} mistake{'s' if wrong.size > 1 else ''} in {_images(len(labels))}"
    if wrong.size > MAX_MISTAKES:
        title += f", the {MAX_MISTAKES} most confident"
    with _drawing(path, 8.2, 0.9 + 1.95 * rows) as figure:
        figure.suptitle(title, fontsize=11, fontweight="bold")
        tiles = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for tile in tiles:
            tile.set_axis_off()
        for tile, index in zip(tiles, shown, strict=False):
            tile.imshow(images[index], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            tile.set_title(f"true {labels[index]}", color=CORRECT, fontsize=9, pad=3)
            confidence = _probability(float(probabilities[index, predicted[index]]))
            below: dict[str, Any] = {"ha": "center", "va": "top", "transform": tile.transAxes}
            text = f"predicted {predicted[index]} ({confidence})"
            tile.text(0.5, -0.04, text, color=WRONG, fontsize=9, **below)


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure, width x height in inches, and write it to `path` at the end."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about its font cache and folders
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
            FigureCanvasAgg(figure)
            yield figure
            with atomic.replacing(path) as temporary:
                figure.savefig(temporary, format="png", metadata={"Software": None})
    finally:
        logger.setLevel(level)


def _curves(
    axes: Axes, epochs: Sequence[int], training: Sequence[float], held_out: Sequence[float], name: str
) -> None:
    """Draw both curves over whole epochs, with markers unless they would overlap."""
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) <= MAX_MARKED_EPOCHS else None
    axes.plot(epochs, training, color=TRAINING, marker=marker, markersize=4, label="training")
    axes.plot(epochs, held_out, color=HELD_OUT, marker=marker, markersize=4, linewidth=2, label=name)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs:
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.margins(y=0.14)


def _mark_best(axes: Axes, epochs: Sequence[int], values: Sequence[float], best: Any, form: str) -> None:
    """Circle the best held-out value; write it and the last one beside the title."""
    finite = [(value, epoch) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    if not finite:
        axes.set_title("no finite value", loc="right", fontsize=9, fontweight="normal", color=HELD_OUT)
        return
    value = best(value for value, _ in finite)
    epoch = next(epoch for candidate, epoch in finite if candidate == value)  # the first of equal ones
    axes.plot([epoch], [value], "o", markersize=11, markerfacecolor="none", markeredgecolor=HELD_OUT)
    text = f"best {form.format(value)} (epoch {epoch})"
    if epochs[-1] != epoch:
        text += f", last {form.format(values[-1])}"
    axes.set_title(text, loc="right", fontsize=9, fontweight="normal", color=HELD_OUT)


def _confusion_colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RGB (classes, classes, 3): the diagonal from white to CORRECT, the rest from white to WRONG."""
    import numpy as np
    from matplotlib.colors import to_rgb

    diagonal = np.eye(len(shares), dtype=np.bool_)
    wrong = np.where(diagonal, 0, shares)
    depth = np.where(diagonal, shares, np.sqrt(wrong / max(float(wrong.max()), 1e-12)) * 0.85)
    full = np.where(diagonal[..., None], to_rgb(CORRECT), to_rgb(WRONG))
    colours: NDArray[np.float64] = 1 - depth[..., None] * (1 - full)
    return colours


def _number_cells(axes: Axes, counts: NDArray[np.int64], colours: NDArray[np.float64]) -> None:
    """Write each count into its cell, and the share of correct predictions beside each row."""
    import numpy as np

    classes = range(len(counts))
    axes.set_xticks(classes)
    axes.set_yticks(classes)
    axes.tick_params(length=0)
    dark = colours.mean(2) < 0.62  # noqa: PLR2004 - white text is easier to read there
    for row, column in np.argwhere(counts > 0):
        colour = "white" if dark[row, column] else INK
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)
    edge = len(counts) - 0.5
    for cell in classes:
        correct = _share(int(counts[cell, cell]), counts[cell].sum())
        axes.text(edge + 0.15, cell, correct, va="center", color=CORRECT, fontsize=9)
        axes.axhline(cell + 0.5, color="#eef0f3", linewidth=0.8)
        axes.axvline(cell + 0.5, color="#eef0f3", linewidth=0.8)
    place: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate("correct", (edge + 0.15, -0.5), color=CORRECT, fontsize=9, **place)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    """Return a percentage, or "none" if `whole` is 0."""
    return f"{part / whole:.2%}" if whole else "none"


def _probability(probability: float) -> str:
    """Return a percentage that is never rounded up to 100%."""
    return "> 99.9%" if 0.9995 <= probability < 1 else f"{probability:.1%}"  # noqa: PLR2004 - rounds up
