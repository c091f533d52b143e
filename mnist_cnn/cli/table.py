"""The one table printer. On a terminal a table fits the width; elsewhere lines stay whole."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

from mnist_cnn.terminal import output

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLES = {"completed": "green", "failed": "red", "lost": "red", "damaged": "red"}
"""The colours of words in tables and messages."""
GAP = "  "
"""What stands between the columns of a table."""
READABLE, LEAST = 20, 8
"""Extra columns are left out before a cell is cut to fewer than READABLE letters.

Columns that may not be cut are cut before others have fewer than LEAST.
"""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column, and how it becomes narrower on a narrow terminal.

    `short` are shorter cells. Cells that `may_be_cut` end in an ellipsis. `extra` columns are left out, the
    last one first.
    """

    head: str
    cells: Sequence[str]
    short: Sequence[str] = ()
    may_be_cut: bool = False
    extra: bool = False

    @property
    def width(self) -> int:
        return max(map(_width, (self.head, *self.cells)))


def terminal_width() -> int | None:
    """Return the terminal's columns, or None if stdout isn't a terminal and `COLUMNS` isn't set."""
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if is_known else None


def print_table(columns: Sequence[Column]) -> None:
    print("\n".join(lines(columns, terminal_width())))


def lines(columns: Sequence[Column], width: int | None) -> list[str]:
    """Return the heads, a rule, and a line for each row: no wider than `width`, unless that is None."""
    columns = [dataclasses.replace(each, cells=[_one_line(cell) for cell in each.cells]) for each in columns]
    if width is not None and _total([column.width for column in columns]) > width:
        columns = _narrowed(columns, width)
    widths = [column.width for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            coloured(cell, sys.stdout) + " " * (width - _width(cell))
            for cell, width in zip(cells, widths, strict=True)
        ]
        return GAP.join(padded).rstrip()

    heads = line([column.head for column in columns])
    rows = zip(*(column.cells for column in columns), strict=True)
    return [heads, "─" * _total(widths), *map(line, rows)]


def _narrowed(columns: Sequence[Column], width: int) -> list[Column]:
    kept = [dataclasses.replace(column, cells=column.short or column.cells) for column in columns]
    while _total([_readable_width(column) for column in kept]) > width:
        extra = [column for column in kept if column.extra]
        if not extra:
            break
        kept.remove(extra[-1])
    widths = [column.width for column in kept]
    while _total(widths) > width and max(widths) > 1:
        places = range(len(kept))
        cut = [place for place in places if kept[place].may_be_cut and widths[place] > LEAST]
        widths[max(cut or places, key=widths.__getitem__)] -= 1
    return [
        dataclasses.replace(
            column, head=_cut(column.head, room), cells=[_cut(cell, room) for cell in column.cells]
        )
        for column, room in zip(kept, widths, strict=True)
    ]


def _readable_width(column: Column) -> int:
    return min(column.width, READABLE) if column.may_be_cut else column.width


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _cut(text: str, room: int) -> str:
    if _width(text) <= room:
        return text
    while _width(text) >= room:
        text = text[:-1]
    return f"{text}…"


def _width(text: str) -> int:
    """Return a text's width in terminal columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def coloured(word: str, stream: TextIO) -> str:
    """Return a word in its colour.

    Leaves it plain if the stream has no colours.
    """
    return output.styled(word, STYLES[word], stream) if word in STYLES else word
