"""How a command that starts or follows a run ends. The run is a stand-in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from helpers.records import write_receipt, write_result
from helpers.scripted_run import ScriptedRun

from mnist_cnn import compose, run_folder
from mnist_cnn.backend import ModelRef, Status
from mnist_cnn.cli.run_to_end import run_to_end
from mnist_cnn.errors import BackendError, Interrupted
from mnist_cnn.result import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.cli import Ask

    from mnist_cnn.result import Result

AZURE = compose.load(["backend=azure"])  # its runs outlive their command, and it registers them


class CompletedRun(ScriptedRun):
    def wait(self) -> Result:
        result = run_folder.read_result(self.folder)
        assert result is not None
        return result

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        raise BackendError(f"{name} is refused at {min_accuracy}", "try again")


class InterruptedRun(ScriptedRun):
    def wait(self) -> NoReturn:
        raise KeyboardInterrupt

    def cost_report(self) -> Iterator[str]:
        pytest.fail("a request could take minutes")


def test_a_refused_registration_fails_a_completed_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path)
    run = CompletedRun(tmp_path, Status.completed)
    with pytest.raises(BackendError, match="mnist-cnn is refused"):
        run_to_end(lambda: run, AZURE, as_json=False)
    assert "completed: test accuracy 90.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recorded", "progress", "message", "command"),
    [
        (Status.queued, None, "detached; {} is still running", "follow"),
        (Status.queued, Progress("running"), "detached; {} is still running", "follow"),
        (Status.queued, Progress("finalizing"), "detached; {} is finalizing", "follow"),
        (Status.completed, None, "interrupted; {} is completed", "status"),
        (Status.failed, None, "interrupted; {} is failed", "resume"),
    ],
)
def test_a_detached_command_says_at_once_what_is_known(
    tmp_path: Path, recorded: Status, progress: Progress | None, message: str, command: str
) -> None:
    write_receipt(tmp_path, recorded, backend="azure")
    run = dataclasses.replace(InterruptedRun(tmp_path, Status.completed), now=progress)
    with pytest.raises(Interrupted) as raised:
        run_to_end(lambda: run, AZURE, as_json=False, is_own=False)
    assert raised.value.message == message.format(tmp_path)
    assert f" {command} {tmp_path}" in raised.value.hint


INTERRUPTED_BACKEND = """
from mnist_cnn.backends.local import LocalBackend, LocalRun

class Run(LocalRun):
    def logs(self, *, follow=False):
        return iter(())

    def wait(self):
        raise KeyboardInterrupt

    def cost_report(self):
        yield "the costs"

class Own(LocalBackend):
    ends_with_its_command = False

    def submit(self, job, folder):
        return Run(folder, self.registry)
"""


def test_an_interrupted_sweep_is_reported_before_its_costs(ask: Ask, home: Path) -> None:
    """A request for the costs could take minutes."""
    (home / "own.py").write_text(INTERRUPTED_BACKEND, encoding="utf-8")
    ended = ask("--multirun", "backend=own.py:Own", "seed=1,2")
    assert ended.code == Interrupted.exit_code
    said = ["interrupted; 0 of 2 completed", "the runs are kept: python -m mnist_cnn list", "the costs"]
    assert ended.err.splitlines() == said
