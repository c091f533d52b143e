"""A notebook that runs in a real kernel."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import nbclient
import nbformat

TUTORIAL = Path(__file__).parent.parent.parent / "docs" / "tutorial.ipynb"


class Notebook(nbclient.NotebookClient):
    """A notebook in a real kernel; `seen` records every output that it displayed or updated."""

    def __init__(self, folder: Path, *cells: str | nbformat.NotebookNode) -> None:
        self.seen: list[tuple[int, str, dict[str, str]]] = []
        self.interrupt_at: re.Pattern[str] | None = None
        made = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
            cells=[nbformat.v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]  # type: ignore[no-untyped-call]
        )
        super().__init__(made, timeout=180, kernel_name="python3", resources={"metadata": {"path": folder}})

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            data = msg["content"]["data"]
            self.seen.append((cell_index, msg["msg_type"], data))
            if self.interrupt_at is not None and self.interrupt_at.search(data["text/plain"]):
                self.interrupt_at = None
                os.kill(self.km.provisioner.pid, signal.SIGINT)  # type: ignore[union-attr]
        return super().process_message(msg, cell, cell_index)

    def run_cell(self, number: int) -> str:
        """Run one cell; return what it printed. Raises CellExecutionError if the cell fails."""
        cell = self.execute_cell(self.nb.cells[number], number)
        return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")

    def shown(self, cell: int, form: str = "text/plain") -> str:
        """Return what the saved notebook shows of a cell."""
        outputs = [output["data"] for output in self.nb.cells[cell].outputs if "data" in output]
        return "\n".join(output[form] for output in outputs if form in output)


def code_cells() -> list[Any]:
    """Return the tutorial's code cells."""
    notebook: Any = nbformat.read(TUTORIAL, as_version=4)  # type: ignore[no-untyped-call]
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
