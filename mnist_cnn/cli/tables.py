"""Plain tables for the terminal, drawn by rich."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_WIDTH = 100_000
"""Columns; more than any table needs."""


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads, without breaking or cutting lines, so that they can be copied."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    drawn = io.StringIO()  # rich would exit the program on a broken pipe
    console = Console(file=drawn, highlight=False, markup=False)
    unbounded = console.options.update(max_width=MAX_WIDTH)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table, no_wrap=True, crop=False)
    sys.stdout.write(drawn.getvalue())
