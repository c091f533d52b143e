"""The command `predict`: recognises digits in pictures.

Takes picture files, folders and standard input.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import launch
from mnist_cnn.cli import report
from mnist_cnn.errors import ConfigurationError, DataError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnist_cnn.cli.command import Command
    from mnist_cnn.prediction.pictures import PictureFile
    from mnist_cnn.prediction.predictor import Prediction

CSV = "--csv"
STDIN = "-"
SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of a folder's pictures; others must be named."""


def predict(command: Command) -> int:
    from mnist_cnn.prediction.predictor import load_predictor

    if len(command.words) < 2:  # noqa: PLR2004 - a run and a picture
        hint = f"for example {command_line('predict', 'latest', 'digit.png')}"
        raise ConfigurationError("predict needs a RUN and at least one IMAGE", hint)
    command.allow_only("runs_dir")
    if command.as_json and CSV in command.flags:
        raise ConfigurationError("predict prints JSON or CSV, not both", f"leave out --json or {CSV}")
    run, *words = command.words
    model = launch.find_model(run, command.overrides, command.config_dirs)
    pictures = list(_pictures(words))
    predictor = load_predictor(model)
    rows: list[dict[str, object]] = []
    show = _csv_printer(predictor.class_names) if CSV in command.flags else _print_line
    code = 0
    answers = predictor.predict_each(picture for _, picture in pictures)
    for (name, _), answer in zip(pictures, answers, strict=True):
        if isinstance(answer, DataError):  # the other pictures are still predicted
            report.print_error(answer)
            code = answer.exit_code
            rows.append({"image": name, "error": answer.message, "hint": answer.hint})
            continue
        if command.as_json:
            rows.append({"image": name, **dataclasses.asdict(answer)})
        else:
            show(name, answer)
        for warning in answer.warnings:
            print(f"warning: {name}: {warning}", file=sys.stderr)
    if command.as_json:
        report.print_json(rows)
    return code


def _pictures(words: list[str]) -> Iterator[tuple[str, PictureFile]]:
    """Yield the name and the file of each picture.

    A folder's pictures are sorted by name.
    """
    for word in words:
        if word == STDIN:
            yield word, _read_stdin()
        elif word and Path(word).is_dir():  # the empty word would be the current folder
            yield from ((str(path), path) for path in _in_folder(Path(word)))
        else:
            yield word, Path(word)


def _in_folder(folder: Path) -> list[Path]:
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}", "name the pictures in it") from error
    found = [path for path in names if not path.name.startswith(".")]
    if not found:
        raise DataError(f"{folder} holds no picture", f"it needs files that end with {', '.join(SUFFIXES)}")
    return found


def _read_stdin() -> io.BytesIO:
    """Read one picture from standard input."""
    from mnist_cnn.prediction.pictures import MAX_FILE_BYTES

    if sys.stdin.isatty():
        hint = f"redirect a picture to it: {command_line('predict', 'RUN', '-')} < digit.png"
        raise ConfigurationError("predict - reads a picture from standard input, which is a terminal", hint)
    picture = io.BytesIO(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
    picture.name = "standard input"
    if len(picture.getbuffer()) > MAX_FILE_BYTES:
        raise DataError(
            f"standard input has more than {MAX_FILE_BYTES} bytes", "give one PNG or JPEG picture"
        )
    return picture


def _print_line(name: str, prediction: Prediction) -> None:
    print(f"{name}: {prediction.name}  ({prediction.probability:.1%})", flush=True)


def _csv_printer(class_names: Sequence[str]) -> Callable[[str, Prediction], None]:
    """Print a CSV header; return a row printer.

    The format is RFC 4180.
    """
    table = csv.writer(sys.stdout)
    probabilities = (f"p{name}" for name in class_names)
    table.writerow(["image", "label", "name", "probability", *probabilities, "warnings"])

    def print_row(name: str, prediction: Prediction) -> None:
        warnings = "; ".join(prediction.warnings)
        found = (prediction.label, prediction.name, prediction.probability, *prediction.probabilities)
        table.writerow([name, *found, warnings])
        sys.stdout.flush()

    return print_row
