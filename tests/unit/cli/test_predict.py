"""`predict` with files, folders and standard input, as lines, JSON and CSV."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from helpers.classifiers import classifier, letter_t, save
from helpers.cli import Ask, refusal
from helpers.processes import start_command
from helpers.terminals import Terminal

from mnist_cnn.errors import DataError
from mnist_cnn.prediction import pictures
from mnist_cnn.prediction.predictor import BATCH, load_predictor

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "half.onnx"


@pytest.fixture(autouse=True)
def model(home: Path) -> Path:
    """A model that calls a letter T 0, and one upside down 1."""
    return classifier(home / MODEL)


@pytest.fixture
def scans(home: Path) -> Path:
    """A folder with pictures and with files that are none."""
    folder = home / "scans"
    folder.mkdir()
    save(letter_t()[::-1], folder / "b.JPG")
    save(letter_t(), folder / "a.png")
    save(letter_t(), folder / "c.bmp")
    save(letter_t(), folder / ".hidden.png")
    (folder / "notes.txt").write_text("none", encoding="utf-8")
    (folder / "within").mkdir()
    return folder


class Stdin:
    """Standard input that holds some bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(content))


@pytest.mark.usefixtures("scans")
def test_a_folders_pictures_are_predicted_in_the_order_of_their_names(ask: Ask) -> None:
    ended = ask("predict", MODEL, "scans", "scans/a.png")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["scans/a.png: 0", "scans/b.JPG: 1", "scans/a.png: 0"]


def test_a_folder_that_cannot_be_used_exits_3(ask: Ask, home: Path) -> None:
    (home / "empty").mkdir()
    message, hint = refusal(ask("predict", MODEL, "empty"), 3)
    assert message == "empty holds no picture"
    assert ".png, .jpg, .jpeg" in hint
    assert "is a folder, not a picture" in refusal(ask("predict", MODEL, ""), 3)[0]


def test_a_folder_that_may_not_be_read_exits_3(
    ask: Ask, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is made up, because root may read every folder."""

    def refuse(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refusal(ask("predict", MODEL, scans.name), 3)[0] == "scans cannot be read: Permission denied"


def test_standard_input_is_one_picture(ask: Ask, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, (scans / "b.JPG").read_bytes())
    assert ask("predict", MODEL, "-").out.startswith("-: 1  ")
    give(monkeypatch, b"scans/a.png\n")
    message = refusal(ask("predict", MODEL, "-"), 3)[0]
    assert message == "standard input is not a picture in a supported format"
    give(monkeypatch, b"")
    assert refusal(ask("predict", MODEL, "-"), 3)[0].startswith("standard input is not a picture")


def test_standard_input_is_read_up_to_a_limit(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 10)
    give(monkeypatch, b"12345678901")
    assert refusal(ask("predict", MODEL, "-"), 3)[0] == "standard input has more than 10 bytes"


def test_a_terminal_is_not_waited_for(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    message, hint = refusal(ask("predict", MODEL, "-"))
    assert message == "predict - reads a picture from standard input, which is a terminal"
    assert "predict RUN - < digit.png" in hint


@pytest.mark.usefixtures("scans")
def test_csv_has_a_row_for_each_picture_that_can_be_read(ask: Ask, home: Path) -> None:
    (home / 'a "bad", name.png').write_bytes((home / "scans" / "a.png").read_bytes())
    (home / "notes.png").write_text("no picture", encoding="utf-8")
    words = ("predict", MODEL, 'a "bad", name.png', "notes.png", "scans")
    ended = ask(*words, "--csv")
    assert ended.code == 3
    assert "error: notes.png is not a picture" in ended.err
    assert ended.out.count("\r\n") == ended.out.count("\n") == 4  # RFC 4180 ends each row with both
    head, *rows = csv.reader(io.StringIO(ended.out, newline=""))
    assert head == ["image", "label", "name", "probability", "p0", "p1", "warnings"]
    expected = [row for row in ask(*words, "--json").json() if "error" not in row]
    for row, said in zip(rows, expected, strict=True):
        image, label, name, *numbers, warnings = row
        assert (image, int(label), name) == (said["image"], said["label"], said["name"])
        assert warnings == "; ".join(said["warnings"])
        assert [float(number) for number in numbers] == [said["probability"], *said["probabilities"]]


def test_csv_and_json_together_are_refused(ask: Ask) -> None:
    ended = ask("predict", MODEL, "a.png", "--csv", "--json")
    assert (ended.code, ended.json()["error"]) == (2, "predict prints JSON or CSV, not both")


@pytest.mark.usefixtures("scans")
def test_a_reader_that_goes_away_ends_it_quietly(home: Path) -> None:
    with start_command("predict", MODEL, *["scans"] * 50, "--csv", cwd=home) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        lines = process.stderr.read().splitlines()
    assert process.returncode == 0
    assert [line for line in lines if not line.startswith("warning: ")] == []


def test_only_a_few_pictures_are_read_before_the_first_answer(scans: Path, model: Path) -> None:
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield scans / ("a.png" if read % 2 else "missing.png")

    answers = load_predictor(model).predict_each(endless())
    for number in range(2 * BATCH):
        answer = next(answers)
        assert isinstance(answer, DataError) == bool(number % 2)
        assert read == (number // BATCH + 1) * BATCH
