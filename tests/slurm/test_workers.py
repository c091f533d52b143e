"""Several workers of a run, on a real Slurm: how its script starts, stops and judges them.

The workers are a few lines of bash. `test_distributed_trainings` has real ones.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import wait_until
from helpers.slurm_runs import SLEEP

from mnist_cnn.backend import Status
from mnist_cnn.backends.remote import workers
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from helpers.slurm_runs import Submitter

OBEY = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
APART = ("--ntasks-per-node=1",)
SHOW = f"""echo "rank=${workers.RANK} host=${workers.HOST} ports=${workers.PORTS} token=${workers.TOKEN}"
echo "home=$HOME path=$PYTHONPATH node=$SLURMD_NODENAME folder=$PWD last=${{@: -2}}"
tr '\\0' ' ' < /proc/$PPID/cmdline; tr '\\0' ' ' < /proc/$$/cmdline"""

OTHER_ADDRESS = (
    """srun() { case $* in *--relative=1*) echo hello; echo 127.0.0.9;; *) command srun "$@";; esac; }"""
)
"""A cluster that says hello, and whose last node sees the first one at another address than 127.0.0.1."""


def test_each_worker_learns_where_the_others_are(submitter: Submitter) -> None:
    run = submitter.start(SHOW, workers=2, memory=1, sbatch=APART, setup=(OTHER_ADDRESS,))
    run.await_status(Status.finalizing)
    (job,) = submitter.cluster.jobs(run.handle.id)
    first = 10_000 + 8 * int(job)
    ports = " ".join(map(str, range(first, first + 8)))
    found = re.findall(rf"rank=(\d) host=127.0.0.9 ports={ports} token=([0-9a-f]{{64}})", run.log())
    assert {rank for rank, _ in found} == {"0", "1"}
    (token,) = {token for _, token in found}
    assert run.log().count(token) == 2, "a command line has it"
    for node in ("n1", "n2"):
        place = f"path={run.folder}/code node={node} folder={run.folder} last=--workers 2"
        assert f"home={Path.home()} {place}" in run.log()
    written = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "log-0.txt"]
    assert not [path for path in written if token.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("trainer", "is_lost", "has_trainer_failed"),
    [
        (f"[ $SLURM_PROCID = 0 ] || kill -KILL $$; {SLEEP}", True, False),
        (f"[ $SLURM_PROCID = 1 ] || kill -SEGV $$; {OBEY}", True, False),
        ("[ $SLURM_PROCID = 1 ] || exit 1", False, True),
    ],
    ids=["killed", "crashed", "failed"],
)
def test_a_worker_that_is_killed_is_a_lost_node(
    submitter: Submitter, trainer: str, *, is_lost: bool, has_trainer_failed: bool
) -> None:
    run = submitter.start(trainer, workers=2, sbatch=APART)
    found = run.await_status(Status.failed)
    assert (found.is_lost, found.has_trainer_failed) == (is_lost, has_trainer_failed)
    assert "n[1-2]" in found.error


def test_sigterm_reaches_all_workers(submitter: Submitter) -> None:
    """And none is killed before it has ended its epoch."""
    trainer = "trap 'stop=1' TERM; while [ -z \"$stop\" ]; do sleep 0.1; done; sleep 1; echo stopped; exit 1"
    run = submitter.start(trainer, workers=2, sbatch=APART)
    wait_until(lambda: run.log().count("trains") == 2)
    submitter.cluster.run("scancel", "--signal=TERM", "--batch", f"--name={run.handle.id}")
    found = run.await_status(Status.failed)
    assert run.log().count("stopped\n") == 2
    assert found.is_lost
    assert "SIGTERM" in found.error


def test_cancelling_ends_all_workers(submitter: Submitter) -> None:
    run = submitter.start(SLEEP, workers=2, sbatch=APART)
    wait_until(lambda: run.log().count("trains") == 2)
    run.service.cancel(run.handle)
    assert run.await_status(Status.cancelled).state == "CANCELLED"


def test_worker_0_may_end_later_than_the_others(submitter: Submitter) -> None:
    """It saves the results. A cluster's WaitTime must not end it."""
    late = "[ $SLURM_PROCID = 1 ] || { sleep 3; mkdir outputs; echo {} > outputs/result.json; }"
    run = submitter.start(late, workers=2)
    assert run.await_status(Status.completed).state == "COMPLETED"


def test_a_node_without_srun_is_named(submitter: Submitter, tmp_path: Path) -> None:
    for name in ("cat", "mv"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    run = submitter.start(workers=2, setup=(f"PATH={tmp_path}",))
    assert "could not start the training; read the log" in run.await_status(Status.failed).error
    assert "has no srun" in run.log()


def test_workers_on_a_node_that_does_not_see_the_run_say_so(submitter: Submitter) -> None:
    """A task without the run's marker stands for a node without the shared folder."""
    run = submitter.start(workers=2, setup=("mv marker hidden",))
    run.await_status(Status.failed)
    assert "does not see the folder of the run" in run.log()
    assert "trains" not in run.log()


def test_more_workers_than_the_cluster_can_hold_fail_once(submitter: Submitter) -> None:
    run = submitter.prepared(SLEEP, workers=4, sbatch=APART)
    with pytest.raises(ServiceError, match="node configuration"):
        run.submit()
    assert not run.find().is_lost
