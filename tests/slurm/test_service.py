"""The Slurm service against a real Slurm: submission, answers, environment, files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.processes import wait_until
from helpers.slurm_runs import ALL_NODES, SLEEP

from mnist_cnn.backend import Status
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.backends.slurm import SlurmService, commands, outcome, script
from mnist_cnn.backends.slurm.queue import queue_at
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from helpers.slurm_cluster import SlurmCluster
    from helpers.slurm_runs import Submitter


def test_a_run_that_is_started_twice_is_one_job(submitter: Submitter) -> None:
    run = submitter.start(SLEEP)
    run.await_trainer()
    run.submit()
    assert len(submitter.cluster.jobs(run.handle.id)) == 1


def test_a_job_is_found_although_the_answer_was_lost(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, original = submitter.prepared(SLEEP), commands.run

    def losing_answer(words: Sequence[str], place: Mapping[str, str], **options: Any) -> str:
        answer = original(words, place, **options)
        if words[0] == "sbatch":
            raise ServiceError("no answer", is_abandoned=True)
        return answer

    monkeypatch.setattr(commands, "run", losing_answer)
    with pytest.raises(ServiceError, match="no answer"):
        run.submit()
    assert run.find().status in (Status.queued, Status.running)
    run.submit()
    assert len(submitter.cluster.jobs(run.handle.id)) == 1


@pytest.mark.parametrize("minutes", [10, 11])
def test_a_run_needs_one_of_its_partitions(submitter: Submitter, minutes: int) -> None:
    """The partition `short` allows ten minutes."""
    run = submitter.start("true", partition="main,short", max_duration=minutes)
    found = run.await_status(Status.finalizing, Status.completed)
    assert found.state == "COMPLETED"


def test_the_second_job_of_a_run_ends_at_once(submitter: Submitter) -> None:
    run = submitter.start(SLEEP)
    run.await_trainer()
    words = script.command(run.handle.id, str(run.folder))[2:]
    second = submitter.run(*words, script=run.request.script)
    wait_until(lambda: "ExitCode=79:0" in submitter.cluster.run("scontrol", "show", "job", second))
    assert run.find().status is Status.running


def test_a_restarted_controller_reuses_ids_but_not_names(submitter: Submitter) -> None:
    submitter.cluster.forget_jobs()
    run = submitter.start(SLEEP)
    run.await_trainer()
    before = submitter.cluster.jobs(run.handle.id)
    submitter.cluster.cancel_all()
    submitter.cluster.forget_jobs()
    other = submitter.start(SLEEP)
    other.await_trainer()
    assert submitter.cluster.jobs(other.handle.id) == before
    assert run.find().status is Status.cancelled
    assert run.find().state == outcome.FORGOTTEN
    assert other.find().status is Status.running


def test_200_runs_are_found_with_one_query(submitter: Submitter, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [submitter.prepared() for _ in range(2)]
    names = [run.handle.id for run in runs] + [f"mnist-cnn-{i:016x}" for i in range(198)]
    for name in names:
        submitter.run("--hold", f"--job-name={name}")
    asked: list[str] = []
    original = commands.run

    def counted(words: Sequence[str], place: Mapping[str, str], **options: Any) -> str:
        asked.append(words[0])
        return original(words, place, **options)

    monkeypatch.setattr(commands, "run", counted)
    queue = queue_at(runs[0].handle.place)
    queue.forget()
    assert all(queue.named(name) for name in names)
    for run in runs:
        found = run.service.find(run.handle)
        assert found is not None
        assert found.state == "PENDING (JobHeldUser)"
    assert asked == ["squeue"]


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"partition": "nope"}, "nope", "backend.partition"),
        ({"sbatch": ("--bad-option=1",)}, "unrecognized option '--bad-option=1'", "backend.sbatch"),
        ({"gpus": 1}, "generic resource", "backend.gpus"),
        ({"memory": 900}, "Memory specification", "backend.memory"),
        ({"partition": "short", "max_duration": 11}, "partition short allows 10 minutes", "lower it"),
        ({"max_duration": 601}, "partition main allows 600 minutes", "lower it"),
    ],
)
def test_a_refusal_names_the_reason_and_the_setting(
    submitter: Submitter, settings: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        submitter.start(**settings)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert not caught.value.is_transient
    assert "\n" not in caught.value.message


def test_a_controller_that_is_down_is_an_outage(submitter: Submitter) -> None:
    run = submitter.start(SLEEP)
    run.await_trainer()
    submitter.cluster.stop_controller()
    try:
        with pytest.raises(ServiceError, match="Unable to contact slurm controller") as caught:
            run.find()
    finally:
        submitter.cluster.start_controller()
    assert caught.value.is_transient
    assert run.find().status is Status.running


def test_a_missing_program_of_slurm_is_named(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = submitter.start(SLEEP)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="squeue cannot be started"):
        run.find()


def test_a_program_that_does_not_answer_is_abandoned(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The program that hangs is a stand-in."""
    run = submitter.prepared()
    stand_in = tmp_path / "bin" / "sbatch"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(commands, "SUBMIT_SECONDS", 0.2)
    with pytest.raises(ServiceError, match="sbatch did not answer") as caught:
        run.submit()
    assert caught.value.is_abandoned


def test_the_environment_of_the_client_does_not_reach_the_trainer(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    monkeypatch.setenv("SBATCH_PARTITION", "down")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "99")
    monkeypatch.setenv("SQUEUE_FORMAT", "%A")
    run = submitter.start('echo "isa=$ONEDNN_MAX_CPU_ISA home=$HOME path=$PYTHONPATH"')
    run.await_status(Status.finalizing)
    assert f"isa= home={Path.home()} path={run.folder}/code" in run.log()


def test_set_up_commands_run_before_the_training(submitter: Submitter) -> None:
    quoted = """export GREETING='it'"'"'s ready'"""
    run = submitter.start('echo "$GREETING in $PWD"', setup=(quoted, "cd /"))
    run.await_status(Status.finalizing)
    assert f"it's ready in {run.folder}" in run.log()


def test_files_of_a_run_in_a_folder_with_any_name_are_found(submitter: Submitter, tmp_path: Path) -> None:
    name = os.fsdecode(b"it's 100% \"\\ \xff")
    run = submitter.prepared('mkdir outputs; echo "$@" > outputs/result.json; ls data code > outputs/list')
    folder = tmp_path / name
    folder.mkdir()
    object.__setattr__(run.handle, "folder", folder)
    run.submit()
    run.await_status(Status.completed)
    assert run.service.files(run.handle) == ["list", "result.json"]
    run.service.download(run.handle, "result.json", tmp_path / "copy", 1.0)
    arguments = (tmp_path / "copy").read_text()
    assert run.request.token in arguments
    assert "--checkpoints ../mnist-cnn-checkpoints/first" in arguments


def test_jobs_of_other_programs_do_not_disturb(submitter: Submitter) -> None:
    submitter.run("--hold", b"--job-name=\xff|\xfe")
    submitter.run("--hold", "--array=1-3")
    run = submitter.start(SLEEP)
    assert run.await_status(Status.running).state.startswith("RUNNING (n")


def test_a_changed_checkout_does_not_change_a_queued_run(submitter: Submitter) -> None:
    run = submitter.prepared("cat code/mnist_cnn/version.py")
    run.submit()
    sources = {file.name: file.source for file in run.request.code}
    run.await_status(Status.finalizing)
    assert sources["mnist_cnn/version.py"].read_text() in run.log()
    copy = run.folder / script.CODE / "mnist_cnn" / "version.py"
    assert copy.stat().st_ino != sources["mnist_cnn/version.py"].stat().st_ino


def test_a_folder_that_the_node_does_not_see_is_named(submitter: Submitter) -> None:
    run = submitter.prepared(sbatch=("--hold",))
    run.submit()
    shutil.rmtree(run.folder)
    submitter.cluster.run("scontrol", "release", f"jobname={run.handle.id}")
    found = run.await_status(Status.failed)
    assert "does not see" in found.error
    assert "runs_dir=FOLDER" in found.error
    run.folder.mkdir()
    (run.folder / script.MARKER).write_text("another run")
    released = run.request.script.replace("#SBATCH --hold\n", "")
    newest = submitter.run(*script.command(run.handle.id, str(run.folder))[2:], script=released)
    wait_until(lambda: "ExitCode=78:0" in submitter.cluster.run("scontrol", "show", "job", newest))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"python": '/no "such"/python'}, 'has no Python /no "such"/python'),
        ({"setup": ("module load nothing",)}, "cannot run backend.setup: module load nothing"),
    ],
)
def test_a_node_that_cannot_train_says_so_in_the_log(
    submitter: Submitter, settings: dict[str, Any], said: str
) -> None:
    from mnist_cnn.backends.remote import log
    from mnist_cnn.run_folder import LOG

    run = submitter.start(**settings)
    assert "could not start the training; read the log" in run.await_status(Status.failed).error
    (run.handle.folder / LOG).write_text(run.log())
    failure = log.failure(run.handle.folder)
    assert failure is not None
    assert failure.message.startswith("node n")
    assert failure.message.endswith(said)
    assert "backend." in failure.hint


def test_cluster_show_names_nodes_and_jobs(submitter: Submitter) -> None:
    from mnist_cnn.backends.slurm import cluster
    from mnist_cnn.errors import BackendError

    run = submitter.start(SLEEP)
    run.await_trainer()
    lines = list(cluster.show(run.service.place(), None))
    assert any(line.startswith("partition main*: ") and "nodes idle" in line for line in lines)
    assert any(f"{run.handle.id}: RUNNING" in line for line in lines)
    with pytest.raises(BackendError, match="no partition nope"):
        list(cluster.show(run.service.place(), "nope"))
    with pytest.raises(BackendError, match="administrators"):
        cluster.refuse_deletion()


def test_checkpoints_outlive_a_start_and_are_listed_with_md5(submitter: Submitter) -> None:
    run = submitter.prepared()
    store = run.service.store(run.handle)
    assert store.list("a/b") == {}
    store.put("a/b/c.npz", b"content")
    assert store.get("a/b/c.npz", 7) == b"content"
    (blob,) = store.list("a/b").values()
    assert (blob.bytes, blob.md5) == (7, "9a0364b9e99bb480dd25e1f0284c8555")
    with pytest.raises(ServiceError) as caught:
        store.get("a/b/d.npz", 7)
    assert caught.value.is_not_found
    with pytest.raises(ServiceError, match="not a name below"):
        store.get("../../etc/passwd", 7)


def test_drained_nodes_leave_the_run_in_the_queue(submitter: Submitter, slurm: SlurmCluster) -> None:
    slurm.run("scontrol", "update", f"NodeName={ALL_NODES}", "State=DRAIN", "Reason=test")
    run = submitter.start(SLEEP)
    found = run.await_status(Status.queued)
    assert not found.has_log
    assert isinstance(run.service, SlurmService)
    slurm.run("scontrol", "update", f"NodeName={ALL_NODES}", "State=RESUME")
    run.await_status(Status.running)
