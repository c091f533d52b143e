"""The number of classes that labels have."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnist_cnn.data.idx import Array


def number_of_classes(paths: tuple[Path, Path], train: Array, test: Array, wanted: int | None) -> int:
    """Check the labels, uint8 (N,), of the training and of the test images; return their number of classes.

    `paths` are the two files of labels. If a number is `wanted`, it may be larger than the labels need.
    Otherwise the training labels must be 0, 1, 2, ... without a gap.

    Raises:
        DataError: a label is too large, or missing, or belongs to test images only.
    """
    import numpy as np

    known = np.unique(train)
    if wanted is None and len(known) == 1:
        raise DataError(
            f"{paths[0]}: every label is {known[0]}", "a network needs images of two or more classes"
        )
    if wanted is None and known[-1] != len(known) - 1:
        missing = sorted({*range(int(known[-1]))} - {*known.tolist()})
        raise DataError(
            f"{paths[0]}: its labels are {spans(known.tolist())}; no image has label {spans(missing)}",
            "number the classes from 0 without a gap; "
            f"if some may have no images, set data.num_classes={known[-1] + 1}",
        )
    classes = wanted or len(known)
    for path, labels in zip(paths, (train, test), strict=True):
        if labels.max() >= classes:
            position = int((labels >= classes).argmax())
            message = f"{path}: label {position + 1} of {len(labels)} is {labels[position]}, but "
            message += (
                f"data.num_classes={wanted} allows 0 to {classes - 1}"
                if wanted
                else f"the training labels are 0 to {classes - 1}"
            )
            hint = f"if the labels are right, set data.num_classes={max(train.max(), test.max()) + 1}"
            raise DataError(message, f"{hint}; if not, get the data again")
    return classes


def spans(numbers: Iterable[int]) -> str:
    """Write ascending numbers shortly: "0 to 2, 4, 7 to 9"."""
    groups = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
