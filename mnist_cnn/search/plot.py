"""Draws search.png.

It shows the accuracy of each trial, epoch by epoch, and where it was paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.result import percent
from mnist_cnn.training.plots import FAINT, HELD_OUT, TRAINING, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnist_cnn.search.halving import Trial


def draw(path: Path, trials: Sequence[Trial], rungs: Sequence[int], best: Trial | None) -> None:
    """Draw each trial's line, with circles at the rungs.

    The best one stands out. Raises BackendError if the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with drawing(path, 8.2, 4.6) as figure:
        axes = figure.subplots()
        for trial in sorted(trials, key=lambda trial: trial is best):
            is_best = trial is best
            colour, width = (HELD_OUT, 2.2) if is_best else (TRAINING, 1.0)
            epochs = range(1, trial.epochs + 1)
            axes.plot(epochs, trial.accuracies, color=colour, linewidth=width, alpha=1 if is_best else 0.6)
            paused = [rung for rung in rungs if rung <= trial.epochs]
            values = [trial.accuracies[rung - 1] for rung in paused]
            axes.plot(paused, values, "o", color=colour, markersize=5, markerfacecolor="white")
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        axes.set_xlim(0.5, rungs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        title = f"{len(trials)} trials"
        if best is not None:
            title += f", best: trial {best.number}, {percent(best.accuracies[-1])} after epoch {best.epochs}"
        axes.set_title(title)
        note = "a circle: the trial was paused and compared there"
        figure.supxlabel(note, fontsize=8, color=FAINT)
