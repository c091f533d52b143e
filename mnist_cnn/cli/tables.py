"""Plain tables for the terminal; rich draws them."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNBOUNDED = 100_000
"""Columns; more than any table has."""


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads; lines are never broken or cut, so that they can be copied."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    drawn = io.StringIO()  # and not the terminal, where rich would end the program if a pipe breaks
    console = Console(file=drawn, highlight=False, markup=False)
    unbounded = console.options.update(max_width=UNBOUNDED)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table, no_wrap=True, crop=False)
    sys.stdout.write(drawn.getvalue())
