"""A run as a real notebook in a real kernel shows it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

from helpers.notebooks import Notebook
from helpers.processes import SMALL, result_of


def test_a_notebook_shows_a_run_in_place_and_keeps_its_end(notebook_folder: Path) -> None:
    overrides = (*SMALL, "train.epochs=3", "run_dir=first")
    client = Notebook(
        notebook_folder,
        "import mnist_cnn",
        f"run = mnist_cnn.submit(*{overrides})",
        "mnist_cnn.follow(run)",
        "run.wait().accuracy",
        "import sys; 'ipywidgets' in sys.modules, 'matplotlib.pyplot' in sys.modules",
    )
    client.execute()

    result = result_of(notebook_folder / "first")
    outputs = client.nb.cells[2].outputs
    assert [output["output_type"] for output in outputs] == ["display_data"] * 3  # all three in place
    assert f"run first: completed\ntest accuracy {result.accuracy:.2%}, test loss" in client.shown(2)
    assert "<b>completed</b>" in client.shown(2, "text/html")
    for row in result.history:
        cells = (row.epoch, f"{row.loss:.4f}", f"{row.accuracy:.2%}", f"{row.val_loss:.4f}")
        assert client.shown(2, "text/html").count("".join(f"<td>{cell}</td>" for cell in cells)) == 1
        assert f"epoch {row.epoch}/3" not in client.shown(2)
    assert f"weights {result.weights_sha256}" in client.shown(2, "text/html")
    assert base64.b64decode(outputs[2]["data"]["image/png"]).startswith(b"\x89PNG")
    assert client.shown(3) == str(result.accuracy)
    assert client.shown(4) == "(False, False)"

    kinds = [kind for cell, kind, _ in client.seen if cell == 2]
    assert kinds.count("display_data") == 3
    first = next(data["text/plain"] for cell, _, data in client.seen if cell == 2)
    assert first in ("run first: queued", "run first: preparing")
    assert kinds.count("update_display_data") >= 1


def test_interrupting_the_kernel_does_not_stop_the_run(notebook_folder: Path) -> None:
    client = Notebook(
        notebook_folder,
        f"import mnist_cnn; run = mnist_cnn.submit(*{(*SMALL, 'train.epochs=10000', 'run_dir=long')})",
        "mnist_cnn.follow(run)",
        "run.status().is_final, run.cancel(), run.status().value",
        "mnist_cnn.follow(mnist_cnn.attach('long'))",
    )
    client.allow_errors = True
    client.interrupt_at = re.compile(r"epoch \d\d+/10000 step \d+/40 loss .* images/s .* left")
    client.execute()
    assert client.interrupt_at is None
    assert any("<progress " in data.get("text/html", "") for _, _, data in client.seen)
    outputs = [output for cell in client.nb.cells for output in cell.outputs]
    errors = [output["ename"] for output in outputs if output["output_type"] == "error"]
    assert errors == ["KeyboardInterrupt"]
    assert "run long: running\ndetached; watch it again" in client.shown(1)
    assert "epoch  loss  accuracy  test loss  test accuracy  seconds\n1  " in client.shown(1)
    assert "<progress " not in client.shown(1, "text/html")
    assert client.shown(2) == "(False, None, 'cancelled')"
    assert (
        "run long: cancelled\nthe run was cancelled\nresume it: python -m mnist_cnn resume" in client.shown(3)
    )


def test_following_outside_a_notebook_imports_no_ipython(small_run: Path) -> None:
    code = (
        "import sys, mnist_cnn; mnist_cnn.follow(mnist_cnn.attach(sys.argv[1])); "
        "print([name for name in ('IPython', 'ipykernel', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", code, str(small_run)]
    shown = subprocess.check_output(command, text=True, timeout=60)
    assert "epoch 2/2  loss" in shown
    assert shown.splitlines()[-1] == "[]"
