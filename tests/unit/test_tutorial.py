"""docs/tutorial.ipynb is as Jupyter writes it, without outputs, so that its changes can be read."""

from __future__ import annotations

import ast
from typing import Any

import nbformat
from helpers.notebooks import TUTORIAL, code_cells

TEXT = TUTORIAL.read_text(encoding="utf-8")
NOTEBOOK: Any = nbformat.reads(TEXT, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_a_valid_notebook_as_jupyter_writes_it() -> None:
    nbformat.validate(NOTEBOOK)
    assert nbformat.writes(NOTEBOOK) + "\n" == TEXT  # type: ignore[no-untyped-call]


def test_it_holds_no_outputs_and_nothing_about_a_machine() -> None:
    for cell in code_cells():
        assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert set(NOTEBOOK.metadata) == {"kernelspec", "language_info"}
    assert NOTEBOOK.metadata.kernelspec.name == "python3"
    assert NOTEBOOK.metadata.language_info == {"name": "python"}


def test_each_cell_has_a_name_of_its_own_that_says_what_it_is() -> None:
    names = [cell.id for cell in NOTEBOOK.cells]
    assert len(set(names)) == len(names)
    for name in names:
        assert all(word.isalpha() and word.islower() for word in name.split("-")), name


def test_a_text_introduces_each_group_of_code_cells() -> None:
    kinds = [cell.cell_type for cell in NOTEBOOK.cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert "code code code" not in " ".join(kinds)


def test_the_settings_are_numbers() -> None:
    (settings,) = [cell for cell in code_cells() if "parameters" in cell.metadata.get("tags", ())]
    for statement in ast.parse(settings.source).body:
        assert isinstance(statement, ast.Assign)
        assert isinstance(ast.literal_eval(statement.value), int | float)
