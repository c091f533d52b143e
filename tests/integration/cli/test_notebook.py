"""A run as a notebook shows it: in real notebooks in a real kernel, and of runs that end in every way."""

from __future__ import annotations

import base64
import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.notebooks import Notebook
from helpers.processes import SMALL

import mnist_cnn
from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli import notebook
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, TrainingError
from mnist_cnn.result import EpochRow, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnist_cnn.backend import ModelRef, Run
    from mnist_cnn.result import Result

NASTY = "<script>alert('1')</script> & \"<b>"
ROW = EpochRow(1, 0.25, 0.9, 0.125, 0.95, 1.0, 2.5)


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

    result = run_folder.read_result(notebook_folder / "first")
    assert result is not None
    outputs = client.nb.cells[2].outputs
    assert [output["output_type"] for output in outputs] == ["display_data"] * 3  # all three in place
    assert f"run first: completed\ntest accuracy {result.accuracy:.4f}, test loss" in client.shown(2)
    assert "<b>completed</b>" in client.shown(2, "text/html")
    for row in result.history:
        cells = (str(row.epoch), *(f"{value:.4f}" for value in (row.loss, row.accuracy, row.val_loss)))
        assert "".join(f"<td>{cell}</td>" for cell in cells) in client.shown(2, "text/html")
    assert f"weights {result.weights_sha256}" in client.shown(2, "text/html")
    assert base64.b64decode(outputs[2]["data"]["image/png"]).startswith(b"\x89PNG")
    assert client.shown(3) == str(result.accuracy)
    assert client.shown(4) == "(False, False)"

    kinds = [kind for cell, kind, _ in client.seen if cell == 2]
    assert kinds.count("display_data") == 3
    first = next(data["text/plain"] for cell, _, data in client.seen if cell == 2)
    assert first in ("run first: queued", "run first: preparing")
    assert kinds.count("update_display_data") >= 1


def test_interrupting_the_kernel_leaves_the_run_as_it_is(notebook_folder: Path) -> None:
    client = Notebook(
        notebook_folder,
        f"import mnist_cnn; run = mnist_cnn.submit(*{(*SMALL, 'train.epochs=10000', 'run_dir=long')})",
        "mnist_cnn.follow(run)",
        "run.status().is_final, run.cancel(), run.status().value",
        "mnist_cnn.follow(mnist_cnn.attach('long'))",
    )
    client.allow_errors = True
    client.interrupt_at = re.compile(r"epoch ([2-9]|\d\d+)/10000 step \d+/40 loss .* images/s .* left")
    client.execute()
    assert client.interrupt_at is None  # so that was seen
    assert any("<progress " in data.get("text/html", "") for _, _, data in client.seen)
    outputs = client.nb.cells[1].outputs
    assert [output["ename"] for output in outputs if output["output_type"] == "error"] == [
        "KeyboardInterrupt"
    ], outputs
    assert "run long: running\nnot watched any more" in client.shown(1)
    assert "epoch  loss  accuracy  test loss  test accuracy  seconds\n1  " in client.shown(1)
    assert "<progress " not in client.shown(1, "text/html")
    assert client.shown(2) == "(False, None, 'cancelled')"
    assert "run long: cancelled\nthe run was cancelled\nresume it: resume" in client.shown(3)


@dataclasses.dataclass
class ToldRun:
    """A run of no backend, whose log and end are what a test says."""

    folder: Path
    end: Status
    error: MnistCnnError | None = None
    lines: tuple[str, ...] = ()
    standing: Progress | None = None
    interrupted: bool = False
    ended: bool = dataclasses.field(default=False)

    def status(self) -> Status:
        return self.end if self.ended else Status.running

    def progress(self) -> Progress | None:
        if self.interrupted:
            raise KeyboardInterrupt
        return self.standing

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        yield from self.lines
        self.ended = follow

    def wait(self) -> Result:
        assert self.error is not None
        raise self.error

    def cancel(self) -> None:
        raise AssertionError

    def cost_report(self) -> Iterator[str]:
        yield from ()

    def download_checkpoints(self) -> None:
        raise NotImplementedError

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        raise AssertionError(name, min_accuracy)


class Displayed:
    """Stands for IPython's `display`: what each of a cell's outputs shows last, and all that was shown."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.all: list[dict[str, str]] = []

    def __call__(self, bundle: dict[str, str], **_: Any) -> Displayed.Handle:
        self.outputs.append(bundle)
        self.all.append(bundle)
        return Displayed.Handle(self, len(self.outputs) - 1)

    @dataclasses.dataclass
    class Handle:
        displayed: Displayed
        place: int

        def update(self, bundle: dict[str, str], **_: Any) -> None:
            self.displayed.outputs[self.place] = bundle
            self.displayed.all.append(bundle)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Displayed:
    displayed = Displayed()
    monkeypatch.setattr("IPython.display.display", displayed)
    return displayed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder as it is when a run has just been submitted."""
    job = mnist_cnn.make_job(*SMALL)
    folder = run_folder.create(str(tmp_path / "<run>"), "", job)
    receipt = run_folder.Receipt("told", "1", job.digest, Status.queued, run_folder.now())
    run_folder.write_receipt(folder, receipt)
    return folder


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (Status.failed, TrainingError(f"the loss became {NASTY}", "lower it")),
        (Status.cancelled, RunCancelled("the run was cancelled", "go on with it: resume RUN")),
        (Status.lost, BackendError("ended without a word", "the log is there")),
    ],
)
def test_how_a_run_failed_is_shown_and_not_raised(
    folder: Path, displayed: Displayed, end: Status, error: MnistCnnError
) -> None:
    run: Run = ToldRun(folder, end, error, ("12:00:00 mnist_cnn begun", f"Killed by {NASTY}"))
    notebook.follow(run)
    shown = displayed.outputs[0]
    assert f"run <run>: {end.value}\n{error.message}\n{error.hint}" in shown["text/plain"]
    assert shown["text/plain"].endswith(f"Killed by {NASTY}")  # said by somebody else than the trainer
    assert tags(shown["text/html"]) == ["div", "b", "b", "div", "pre"]


def test_the_learning_curves_are_drawn_once_for_each_epoch(
    folder: Path, displayed: Displayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = notebook.draw_history

    def count_and_draw(rows: Sequence[EpochRow], held_out: str) -> dict[str, Any]:
        drawn.append(len(rows))
        return draw(rows, held_out)

    monkeypatch.setattr(notebook, "draw_history", count_and_draw)
    monkeypatch.setattr(notebook, "UPDATE_SECONDS", 0.0)
    run_folder.write_history(folder, [ROW])
    lines = tuple(f"12:00:00 mnist_cnn line {number}" for number in range(20))
    notebook.follow(ToldRun(folder, Status.failed, TrainingError("it failed"), lines))
    assert drawn == [1]
    assert sum("image/png" in bundle for bundle in displayed.all) == 1
    assert sum("<table>" in bundle.get("text/html", "") for bundle in displayed.all) == 1
    assert sum("line" in bundle["text/plain"] for bundle in displayed.all) >= 20  # the log moved meanwhile


def test_updates_are_few_however_much_is_said(
    folder: Path, displayed: Displayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notebook.UPDATE_SECONDS >= 0.25
    monkeypatch.setattr(notebook, "UPDATE_SECONDS", 3600.0)
    lines = tuple(f"12:00:00 mnist_cnn line {number}" for number in range(5000))
    notebook.follow(ToldRun(folder, Status.failed, TrainingError("it failed"), lines))
    assert len(displayed.all) == 3  # the beginning, the end and how it ended
    assert "line 4999" in displayed.outputs[0]["text/plain"]
    assert "line 4000" not in displayed.outputs[0]["text/plain"]


def test_an_interrupted_view_says_how_to_go_on(folder: Path, displayed: Displayed) -> None:
    with pytest.raises(KeyboardInterrupt):
        notebook.follow(ToldRun(folder, Status.completed, interrupted=True))
    assert f"mnist_cnn.follow(mnist_cnn.attach({str(folder)!r}))" in displayed.outputs[0]["text/plain"]


def tags(html: str) -> list[str]:
    """Return the tags that a browser sees, in order."""
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    return seen


def test_nothing_that_a_run_says_becomes_html() -> None:
    standing = notebook.Standing(
        NASTY, Status.running, f"https://host/{NASTY}", Progress("running", 1, 2, 3, 4), NASTY, (NASTY, NASTY)
    )
    assert tags(standing.html()) == ["div", "b", "b", "a", "div", "progress", "div", "pre"]
    assert tags(notebook.describe_history([], NASTY)["text/html"]) == [
        *("table", "thead", "tr", *["th"] * 6),
        "tbody",
    ]


@pytest.mark.parametrize(
    "url", [None, "javascript:alert(1)", "file:///etc/passwd", "https://", "http://[", "x"]
)
def test_only_a_web_page_is_linked(url: str | None) -> None:
    assert "<a" not in notebook.Standing("run", Status.running, url).html()
    linked = notebook.Standing("run", Status.running, "https://ml.example/runs/1?a=1&b=2").html()
    assert '<a href="https://ml.example/runs/1?a=1&amp;b=2"' in linked
    assert ">ml.example</a>" in linked


def test_outside_a_notebook_following_imports_no_ipython(small_run: Path) -> None:
    code = (
        "import sys, mnist_cnn; mnist_cnn.follow(mnist_cnn.attach(sys.argv[1])); "
        "print([name for name in ('IPython', 'ipykernel', 'matplotlib') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, str(small_run)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "epoch 2/2  loss" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"
