"""A worker that is killed with SIGKILL can be resumed, and ends in the weights of one that was not killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fault_points import fault
from helpers.processes import TINY, end_of, result_of, run_command, start_command

from faults import kills
from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError
from mnist_cnn.files import atomic

JOB = (*TINY, "train.epochs=2")
POINTS = (
    ("progress.json", 2),  # after the first step
    ("epoch-000001.npz", 1),
    ("metrics.jsonl", 2),  # after a checkpoint, before its epoch is in the history
    ("model.keras", 1),
    ("result.json", 1),
)
"""FILE and COUNT, in the order in which a run meets them that is resumed after each kill."""


@pytest.mark.long
def test_a_run_survives_a_kill_at_each_write(tmp_path: Path) -> None:
    run, verb = tmp_path / "run", [*JOB, "run_dir=run"]
    for name, count in POINTS:
        ended = end_of(start_command(*verb, cwd=tmp_path, **fault("kill", "worker", name, count)))
        assert ended.code == BackendError.exit_code, ended.err
        assert "ended without an error: it was killed" in ended.err
        assert "resume it: python -m mnist_cnn resume run" in ended.err
        assert launch.attach_to(run).status() is Status.lost
        assert list(run.rglob(f"{atomic.PREFIX}*{Path(name).suffix}")), f"it was not writing {name}"
        verb = ["resume", "run"]
    # The run is complete without its final receipt, because the result is there.
    ended = end_of(start_command(*verb, cwd=tmp_path, **fault("kill", "worker", "run.json")))
    assert ended.code == 0, ended.err
    assert run_folder.read_receipt(run).status is Status.completed  # which the command recorded instead
    assert not list(run.rglob(f"{atomic.PREFIX}*"))
    whole = run_command(*JOB, "run_dir=whole", cwd=tmp_path)
    assert whole.code == 0, whole.err
    before, result = result_of(tmp_path / "whole"), result_of(run)
    assert result.weights_sha256 == before.weights_sha256
    assert [row.loss for row in result.history] == [row.loss for row in before.history]
    assert run_folder.read_history(run) == result.history
    run_folder.verify(run, result)
    assert "is damaged" not in (run / "log.txt").read_text(encoding="utf-8")


def test_a_run_survives_a_kill_at_a_random_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tests.faults kills` does this fifty times."""
    monkeypatch.setattr(kills, "JOB", JOB)
    survived = kills.survive(tmp_path, kills=1, seed=1)
    assert survived.kills.total() == 1
    assert survived.differing == []
    assert survived.damaged == 0
