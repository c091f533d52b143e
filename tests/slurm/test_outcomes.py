"""What a real Slurm makes of runs that end, are ended, lose their node, or are forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.processes import wait_until
from helpers.slurm_runs import SLEEP

from mnist_cnn.backend import Status
from mnist_cnn.backends.slurm import outcome
from mnist_cnn.backends.slurm.queue import queue_at

if TYPE_CHECKING:
    from helpers.slurm_runs import Started, Submitter

RESULT = "mkdir outputs; echo {} > outputs/result.json"


def node_of(run: Started) -> str:
    """Return the node that a running run is on."""
    return run.find().state.removeprefix("RUNNING (").removesuffix(")")


def test_a_trainer_that_succeeds_completes_the_run(submitter: Submitter) -> None:
    run = submitter.start(RESULT)
    assert run.await_status(Status.completed).state == "COMPLETED"


def test_a_completed_run_waits_a_while_for_its_result(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submitter.start("true")
    assert run.await_status(Status.finalizing).state == "COMPLETED"
    monkeypatch.setattr("mnist_cnn.backends.slurm.service.FILES_SECONDS", 0.0)
    assert run.find().status is Status.completed


@pytest.mark.parametrize(
    ("trainer", "said", "has_trainer_failed", "is_lost"),
    [
        ("exit 1", "the training failed on n", True, False),
        ("kill -KILL $$", "killed on n", False, True),
        ("kill -SEGV $$", "by SIGSEGV", True, False),
        ("kill -KILL $PPID; sleep 5", "was killed on n", False, True),
    ],
)
def test_a_trainer_that_fails_is_told_from_one_that_is_killed(
    submitter: Submitter, trainer: str, said: str, *, has_trainer_failed: bool, is_lost: bool
) -> None:
    found = submitter.start(trainer).await_status(Status.failed)
    assert said in found.error
    assert (found.has_trainer_failed, found.is_lost) == (has_trainer_failed, is_lost)


def test_a_held_run_is_queued_until_it_is_cancelled(submitter: Submitter) -> None:
    run = submitter.start(sbatch=("--hold",))
    assert run.find().state == "PENDING (JobHeldUser)"
    assert run.find().status is Status.queued
    run.service.cancel(run.handle)
    assert run.await_status(Status.cancelled).state == "CANCELLED"


def test_a_running_run_is_cancelled(submitter: Submitter) -> None:
    run = submitter.start(SLEEP)
    run.await_trainer()
    run.service.cancel(run.handle)
    assert run.await_status(Status.cancelled).state == "CANCELLED"
    run.service.cancel(run.handle)  # a second time does no harm


@pytest.mark.parametrize(("minutes", "is_lost"), [(2, False), (300, True)])
def test_sigterm_reaches_the_trainer_and_its_reason_is_told(
    submitter: Submitter, minutes: int, *, is_lost: bool
) -> None:
    run = submitter.start("trap 'echo told; exit 1' TERM; while :; do sleep 0.1; done", max_duration=minutes)
    run.await_trainer()
    wait_until((run.folder / "trainer").exists)
    submitter.cluster.run("scancel", "--signal=TERM", "--batch", f"--name={run.handle.id}")
    found = run.await_status(Status.cancelled, Status.failed)
    assert "told" in run.log()
    assert found.is_lost is is_lost
    assert found.status is (Status.failed if is_lost else Status.cancelled)
    assert "time limit" in found.error


def test_a_preempted_run_has_lost_its_node(submitter: Submitter) -> None:
    run = submitter.start(SLEEP, partition="spare", cpus=2, preemption_retries=0)
    run.await_trainer()
    other = submitter.start(SLEEP, cpus=2, sbatch=("--nodelist=n1",))
    found = run.await_status(Status.failed)
    assert found.state == "PREEMPTED"
    assert found.is_lost
    other.await_status(Status.running)


def test_slurm_starts_a_run_again_whose_node_died(submitter: Submitter) -> None:
    run = submitter.start(f'echo "start $SLURM_RESTART_COUNT on $SLURMD_NODENAME"; {SLEEP}')
    run.await_trainer()
    node = node_of(run)
    submitter.cluster.kill_node(node)
    wait_until(lambda: run.find().status is Status.queued)
    assert run.find().has_log
    submitter.cluster.run("scontrol", "update", f"jobname={run.handle.id}", "StartTime=now")
    wait_until(lambda: "start 1 on" in run.log())
    assert node_of(run) != node


def test_a_run_that_may_not_be_requeued_has_lost_its_node(submitter: Submitter) -> None:
    run = submitter.start(SLEEP, preemption_retries=0)
    run.await_trainer()
    submitter.cluster.kill_node(node_of(run))
    found = run.await_status(Status.failed)
    assert found.state == "NODE_FAIL"
    assert found.is_lost


@pytest.mark.parametrize(("trainer", "status"), [(RESULT, Status.completed), ("exit 1", Status.failed)])
def test_a_forgotten_run_is_judged_by_its_files(submitter: Submitter, trainer: str, status: Status) -> None:
    run = submitter.start(trainer)
    run.await_status(status)
    submitter.cluster.forget_jobs()
    found = run.find()
    assert (found.state, found.status) == (outcome.FORGOTTEN, status)


def test_a_forgotten_run_without_an_end_is_unknown(submitter: Submitter) -> None:
    run, cancelled = (submitter.start(sbatch=("--hold",)) for _ in range(2))
    cancelled.service.cancel(cancelled.handle)
    submitter.cluster.forget_jobs()
    queue_at(run.handle.place).forget()
    assert run.service.find(run.handle) is None
    assert cancelled.find().status is Status.cancelled
