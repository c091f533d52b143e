"""How a notebook's cell shows runs that end in every way, with a fake of IPython's display."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from helpers.processes import SMALL
from helpers.records import ROW, write_receipt, write_result
from helpers.scripted_run import ScriptedRun

import mnist_cnn
from mnist_cnn import run_creation, run_folder
from mnist_cnn.backend import Run, Status
from mnist_cnn.cli import notebook
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, TrainingError
from mnist_cnn.result import Progress
from mnist_cnn.training.train import describe_epoch

NASTY = "<script>alert('1')</script> & \"<b>"


class Displayed:
    """A fake of IPython's `display`: what each output of the cell shows last, and all that was shown."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.all: list[dict[str, str]] = []

    def __call__(self, bundle: dict[str, str], **_: Any) -> SimpleNamespace:
        """Return what IPython calls a handle, whose `update` changes the output."""
        place = len(self.outputs)
        self.outputs.append(bundle)
        self.all.append(bundle)

        def update(bundle: dict[str, str], **_: Any) -> None:
            self.outputs[place] = bundle
            self.all.append(bundle)

        return SimpleNamespace(update=update)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Displayed:
    displayed = Displayed()
    monkeypatch.setattr("IPython.display.display", displayed)
    return displayed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that has just been submitted."""
    with run_creation.create(str(tmp_path / "<run>"), "", mnist_cnn.make_job(*SMALL)) as folder:
        write_receipt(folder, Status.queued)
    return folder


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (Status.failed, TrainingError(f"the loss became {NASTY}", "lower it")),
        (Status.cancelled, RunCancelled("the run was cancelled", "resume it: resume RUN")),
        (Status.lost, BackendError("the run ended unexpectedly", "read the log")),
    ],
)
def test_a_failed_run_is_shown_and_not_raised(
    folder: Path, displayed: Displayed, end: Status, error: MnistCnnError
) -> None:
    run: Run = ScriptedRun(folder, end, error, ("12:00:00 mnist_cnn begun", f"Killed by {NASTY}"))
    notebook.follow(run)
    shown = displayed.outputs[0]
    assert f"run <run>: {end.value}\n{error.message}\n{error.hint}" in shown["text/plain"]
    assert shown["text/plain"].endswith(f"Killed by {NASTY}")  # a line that is not the trainer's
    assert tags(shown["text/html"]) == ["div", "b", "b", "div", "details", "summary", "pre"]
    assert "<details open>" in shown["text/html"]  # the log says why


def test_the_log_is_folded_when_the_run_is_completed(
    folder: Path, displayed: Displayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "UPDATE_SECONDS", 0.0)
    lines = ("12:00:00 mnist_cnn x_train (60000, 28, 28, 1)",)
    result = write_result(folder, accuracy=0.99184)
    notebook.follow(ScriptedRun(folder, Status.completed, lines=lines, result=result))
    states = [bundle["text/html"] for bundle in displayed.all if "<pre>" in bundle.get("text/html", "")]
    assert "x_train" in states[-1]
    assert "<details><summary>" in states[-1]
    assert "details" not in states[0]
    assert "test accuracy 99.18%, test loss 0.4000" in displayed.outputs[0]["text/plain"]


def test_each_epoch_is_shown_once(folder: Path, displayed: Displayed) -> None:
    run_folder.write_history(folder, [ROW])
    line = f"12:00:00 mnist_cnn {describe_epoch(ROW, mnist_cnn.make_job())}"
    for end in (Status.completed, Status.failed):
        displayed.outputs.clear()
        error = TrainingError("it failed") if end is Status.failed else None
        result = write_result(folder) if error is None else None
        notebook.follow(ScriptedRun(folder, end, error, lines=(line, line), result=result))
        for form in ("text/plain", "text/html"):
            shown = "".join(bundle.get(form, "") for bundle in displayed.outputs)
            assert shown.count("0.5000") == 1  # the epoch's loss, in the table


def test_learning_curves_are_drawn_once_per_epoch(
    folder: Path, displayed: Displayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Mock(wraps=notebook.draw_history)
    monkeypatch.setattr(notebook, "draw_history", draw)
    monkeypatch.setattr(notebook, "UPDATE_SECONDS", 0.0)
    run_folder.write_history(folder, [ROW])
    lines = tuple(f"12:00:00 mnist_cnn line {number}" for number in range(20))
    notebook.follow(ScriptedRun(folder, Status.failed, TrainingError("it failed"), lines))
    draw.assert_called_once()
    assert sum("image/png" in bundle for bundle in displayed.all) == 1
    assert sum("<table>" in bundle.get("text/html", "") for bundle in displayed.all) == 1
    assert sum("line" in bundle["text/plain"] for bundle in displayed.all) >= 20


def test_a_long_log_causes_few_updates(
    folder: Path, displayed: Displayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notebook.UPDATE_SECONDS >= 0.25
    monkeypatch.setattr(notebook, "UPDATE_SECONDS", 3600.0)
    lines = tuple(f"12:00:00 mnist_cnn line {number}" for number in range(5000))
    notebook.follow(ScriptedRun(folder, Status.failed, TrainingError("it failed"), lines))
    assert len(displayed.all) == 3  # the beginning, the end and how it ended
    assert "line 4999" in displayed.outputs[0]["text/plain"]
    assert "line 4000" not in displayed.outputs[0]["text/plain"]


def test_an_interrupted_view_says_how_to_watch_again(folder: Path, displayed: Displayed) -> None:
    with pytest.raises(KeyboardInterrupt):
        notebook.follow(ScriptedRun(folder, Status.completed, interrupted=True))
    assert f"mnist_cnn.follow(mnist_cnn.attach({str(folder)!r}))" in displayed.outputs[0]["text/plain"]


def tags(html: str) -> list[str]:
    """Return the tags that a browser sees, in order."""
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    return seen


def test_text_of_a_run_is_escaped_in_html() -> None:
    url, progress = f"https://host/{NASTY}", Progress("running", 1, 2, 3, 4)
    state = notebook.RunState(NASTY, Status.running, url, progress, NASTY, (NASTY, NASTY))
    assert tags(state.html()) == ["div", "b", "b", "a", "div", "progress", "div", "pre"]
    table = notebook.describe_history([], NASTY)["text/html"]
    assert tags(table) == ["table", "thead", "tr", *["th"] * 6, "tbody"]


def test_only_a_web_page_is_linked() -> None:
    for url in (None, "javascript:alert(1)", "file:///etc/passwd", "https://", "http://[", "x"):
        assert "<a" not in notebook.RunState("run", Status.running, url).html()
    linked = notebook.RunState("run", Status.running, "https://ml.example/runs/1?a=1&b=2").html()
    assert '<a href="https://ml.example/runs/1?a=1&amp;b=2"' in linked
    assert ">ml.example</a>" in linked
