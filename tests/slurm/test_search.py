"""A search whose trials train on a real Slurm, several at once; killed, interrupted and continued."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import quick_trainer
from helpers.processes import end_of, run_successfully, start_command, wait_until
from helpers.searches import SEARCH, epochs_in_log, outcome, trained_state

if TYPE_CHECKING:
    from helpers.slurm_cluster import SlurmCluster

SLURM = ("backend=slurm", "backend.cpus=1")


def starts_of(trial: Path) -> list[str]:
    """Return the ids under which a trial was submitted."""
    return sorted(path.name for path in (trial / "node").glob("mnist-cnn-*-*") if path.is_dir())


def check_each_start_is_one_job(slurm: SlurmCluster, found: Path, answer: dict[str, Any]) -> None:
    """Check that each epoch was a job of its own, because trials are compared after each one."""
    for trial in answer["trials"]:
        starts = starts_of(found / f"{trial['trial']:03}")
        assert len(starts) == trial["epochs"]
        assert [len(slurm.jobs(start)) for start in starts] == [1] * len(starts)


def await_jobs(slurm: SlurmCluster, count: int) -> None:
    """Wait until this many jobs are queued or running."""
    wait_until(lambda: len(slurm.run("squeue", "-h", "-o", "%A").split()) == count)


def test_trials_that_pause_after_a_kill_are_not_submitted_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    program, gate = quick_trainer.write(tmp_path)
    words = (*SEARCH, "search.trials=4", "search.reduction=2", *SLURM, f"backend.python={program}", "--json")
    first = start_command(*words, cwd=tmp_path)
    await_jobs(slurm, 4)
    first.kill()
    first.communicate()
    gate.touch()
    await_jobs(slurm, 0)
    answer = run_successfully(*words, cwd=tmp_path).json()
    check_each_start_is_one_job(slurm, tmp_path / "found", answer)
    rates = [float(trial["settings"][0].partition("=")[2]) for trial in answer["trials"]]
    expected = [quick_trainer.accuracy(rates[0], epoch) for epoch in (1, 2)]
    assert answer["trials"][0]["accuracies"] == expected
    assert rates[0] == min(rates, key=lambda rate: abs(rate - 0.1))
    assert sorted(trial["epochs"] for trial in answer["trials"]) == [1, 1, 2, 2]
    assert Path(tmp_path / answer["plot"]).exists()


@pytest.mark.long
def test_a_search_that_is_killed_and_interrupted_ends_as_it_does_here(
    slurm: SlurmCluster, local_search: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    words, found = (*SEARCH, *SLURM, "--json"), tmp_path / "found"
    killed = start_command(*words, cwd=tmp_path)
    await_jobs(slurm, 3)
    killed.kill()
    killed.communicate()
    interrupted = start_command(*words, cwd=tmp_path)
    wait_until(lambda: any(len(starts_of(trial)) == 2 for trial in found.glob("0*")), interrupted)
    await_jobs(slurm, 1)
    interrupted.send_signal(signal.SIGINT)
    ended = end_of(interrupted)
    assert ended.code == 130
    assert "the next command follows them: found/00" in ended.err
    assert "continue it: python -m mnist_cnn search" in ended.err
    answer = run_successfully(*words, cwd=tmp_path).json()
    local, expected = local_search
    assert outcome(answer) == outcome(expected)
    check_each_start_is_one_job(slurm, found, answer)
    for trial in answer["trials"]:
        name = f"{trial['trial']:03}"
        assert trained_state(found / name) == trained_state(local / name)
        assert epochs_in_log(found / name) == [f"{epoch}/2" for epoch in range(1, trial["epochs"] + 1)]
    assert Path(tmp_path / answer["plot"]).read_bytes().startswith(b"\x89PNG")
