"""Every cell of docs/tutorial.ipynb runs, first without a cluster, then with one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import LOOPBACK_TESTS
from helpers.notebooks import TUTORIAL, Notebook, code_cells
from helpers.processes import result_of
from nbclient.exceptions import CellExecutionError

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = LOOPBACK_TESTS

FEW = ["IMAGES, TEST_IMAGES, EPOCHS, MIN_ACCURACY = 1000, 500, 1, 0"]
SUGGESTED = re.compile(r"`([A-Z_]+ = [\d.]+)`").findall(TUTORIAL.read_text(encoding="utf-8"))
"""The quick settings that the notebook's text suggests."""
PICTURES = ("pictures", "confusion", "mistakes", "draw", "unsure", "cluster-confusion")


@pytest.mark.parametrize(
    "settings", [FEW, pytest.param(SUGGESTED, marks=pytest.mark.long)], ids=["few-images", "suggested"]
)
def test_every_cell_of_the_tutorial_runs(
    azure: AzureService, notebook_folder: Path, settings: list[str]
) -> None:
    assert len(SUGGESTED) == 4
    cells = code_cells()
    numbers = {cell.id: number for number, cell in enumerate(cells)}
    cells[numbers["settings"]].source += "\n" + "\n".join(settings)
    notebook = Notebook(notebook_folder, *cells)
    said: dict[str, str] = {}
    with notebook.setup_kernel():
        for name, number in numbers.items():
            if name == "cluster-submit":
                with pytest.raises(CellExecutionError, match=r"no config\.json in "):
                    notebook.run_cell(number)
                shutil.copy(azure.home / "config.json", notebook_folder)
            said[name] = notebook.run_cell(number)
    for name in PICTURES:
        (output,) = notebook.nb.cells[numbers[name]].outputs[-1:]
        assert output["data"]["image/png"], name
    here, there = (result_of(run) for run in sorted((notebook_folder / "runs").iterdir()))
    assert f"test accuracy {here.accuracy:.2%}" in said["result"]
    assert (here.job_digest, here.weights_sha256) == (there.job_digest, there.weights_sha256)
    assert said["cluster-result"].count(here.weights_sha256[:12]) == 2
    for name, text in (
        ("cluster-plan", "traincluster"),
        ("cluster-submit", "traincluster: ready"),
        ("register", "scikit-learn-mnist-model\t"),
        ("cluster-show", "traincluster"),
        ("cluster-delete", "deleted"),
    ):
        assert text in said[name], said[name]
