"""Tables in terminals that are too narrow for them."""

from __future__ import annotations

import pytest

from mnist_cnn.cli.table import Column, lines

COLUMNS = (
    Column("run", ["2026-01-01T00-00-00Z-3f91", "second"], short=["3f91", "second"]),
    Column("loss", ["0.1234", ""], extra=True),
    Column("age", ["12d", "3s"], extra=True),
    Column("settings", ["seed=1 " * 9, "Größe=数字 " * 9], may_be_cut=True),
    Column("outcome", ["two\nlines " * 9, "completed"], may_be_cut=True),
)


@pytest.mark.parametrize("width", [8, 20, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    from rich.cells import cell_len

    table = lines(COLUMNS, width)
    assert len(table) == 4
    assert max(map(cell_len, table)) <= width


def test_extra_columns_are_left_out_before_cells_become_unreadable() -> None:
    assert lines(COLUMNS, 120)[0].split() == ["run", "loss", "age", "settings", "outcome"]
    assert lines(COLUMNS, 60)[0].split() == ["run", "loss", "settings", "outcome"]
    narrow = lines(COLUMNS, 50)
    assert narrow[0].split() == ["run", "settings", "outcome"]
    assert narrow[2].startswith("3f91    seed=1 seed=1 ")


def test_without_a_terminal_cells_are_whole() -> None:
    assert "seed=1 " * 9 in lines(COLUMNS, None)[2]
