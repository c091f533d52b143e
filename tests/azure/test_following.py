"""A run on the cluster is never lost, whatever ends the command or the network. Real processes."""

from __future__ import annotations

import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from helpers.azure_commands import (
    ENDLESS,
    SDK_TESTS,
    TINY,
    calls,
    chosen,
    copy_package,
    read_until,
    refused,
    run_here,
    start,
    submissions,
    succeeded,
)
from helpers.azure_runs import LOG, ServiceRun, completed_run
from helpers.disks import small_disk
from helpers.processes import SMALL, command, end_of, hear_interrupts, result_of, start_command, wait_for_line
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, RunCancelled

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = SDK_TESTS


def check_is_complete(folder: Path) -> None:
    run_folder.verify(folder, result_of(folder))


@pytest.mark.long
def test_a_command_killed_as_it_submits_loses_nothing(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate()
    assert run_here("follow", "run", cwd=tmp_path).code == 0
    check_is_complete(tmp_path / "run")
    assert submissions(azure) == 1


@pytest.mark.parametrize(
    ("path", "verb"),
    [
        pytest.param(r"user_logs/std_log\.txt$", "follow", id="as it reads the log", marks=pytest.mark.long),
        pytest.param(r"outputs/result\.json$", "follow", id="as it downloads the result"),
        pytest.param("/models$", "register", id="as it registers the model", marks=pytest.mark.long),
    ],
)
def test_a_command_killed_later_loses_nothing(
    azure: AzureService, small_run: Path, tmp_path: Path, path: str, verb: str
) -> None:
    made = completed_run(azure, tmp_path / "run", small_run)
    model = (f"register.name=killed-{made.id}", "register.min_accuracy=0")
    if verb == "register":
        assert run_here("follow", "run", cwd=tmp_path).code == 0
    process = start_command(verb, "run", *(model if verb == "register" else ()), cwd=tmp_path)
    azure.requests.wait_for("POST" if verb == "register" else "GET", path, timeout=120)
    process.kill()
    process.communicate()
    assert run_here("follow", "run", cwd=tmp_path).code == 0
    check_is_complete(tmp_path / "run")
    registered = succeeded(run_here("register", "run", *model, cwd=tmp_path))
    assert calls(azure, "POST", "/models") == 1
    assert ("already registered" in registered.out) == (verb == "register")


@pytest.mark.long
def test_a_result_that_a_full_disk_does_not_take_is_downloaded_later(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    """The disk is full as the run starts, as its log is read, and as its model is downloaded."""
    full = "No space left on device"
    azure.clusters.behave(full=True)
    with small_disk(tmp_path, "32m") as disk:
        started = disk.run(*chosen(azure), *TINY, "run_dir=run", **disk.full_at("command", "run.json", 2))
        refused(started, BackendError.exit_code, f"cannot write run/run.json: {full}", "has started")
        refused(started, BackendError.exit_code, "free some space", "follow run")
        assert submissions(azure) == 1
        disk.make_room()
        completed_run(azure, disk.seen / "second", small_run)
        disk.fill()
        followed = disk.run("follow", "second")
        refused(followed, BackendError.exit_code, "cannot write second/", full, "free some space")
        disk.fill(100_000)  # room for the log, and not for the model
        followed = disk.run("follow", "second")
        refused(followed, BackendError.exit_code, f"cannot write second: {full}", "follow second")
        assert not (disk.seen / "second" / "result.json").exists()
        disk.make_room()
        succeeded(disk.run("follow", "second", "--json"))
        check_is_complete(disk.seen / "second")


def test_two_processes_may_follow_one_run(azure: AzureService, small_run: Path, tmp_path: Path) -> None:
    made = ServiceRun(azure, tmp_path / "run", job=run_folder.read_job(small_run))
    made.begin()
    both = [start_command("follow", "run", cwd=tmp_path) for _ in range(2)]
    wait_for_line(tmp_path / "run", "mnist_cnn progress", both[0])
    lines = "".join(f"12:00:0{epoch} mnist_cnn epoch {epoch}/3 \n" for epoch in (1, 2, 3))
    made.write_log(f"mnist_cnn progress {{}}\n{lines}")
    made.write_outputs(small_run)
    made.set_state("Completed")
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    check_is_complete(tmp_path / "run")
    for epoch in (1, 2, 3):
        assert (tmp_path / "run" / "log.txt").read_text().count(f"mnist_cnn epoch {epoch}/3 ") == 1
        assert all(f"epoch {epoch}/3" in out for out, _ in said)


def test_an_outage_of_the_network_does_not_end_following(azure: AzureService, tmp_path: Path) -> None:
    made = ServiceRun(azure, tmp_path / "run")
    made.begin()
    process = start_command("follow", "run", cwd=tmp_path)
    azure.requests.wait_for("GET", LOG, timeout=120)
    with azure.proxy.unplugged():
        status = start_command("status", "run", cwd=tmp_path)
        read_until("seconds", process)
        refused(end_of(status), BackendError.exit_code, "reach")
        assert process.poll() is None
    made.set_state("Canceled")
    refused(end_of(process), RunCancelled.exit_code)


@pytest.mark.long
def test_a_run_whose_output_nobody_reads_is_followed_to_its_end(azure: AzureService, tmp_path: Path) -> None:
    """The reader is gone before anything is submitted."""
    line = shlex.join(command(*chosen(azure), *TINY, "run_dir=run"))
    piped = f"{{ {line}; echo $? > code; }} 2>&1 | head -n 1"
    ended = subprocess.run(
        ["/bin/sh", "-c", piped], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.startswith("workspace ")
    assert len(ended.stdout.splitlines()) == 1
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0\n"
    assert run_folder.read_receipt(tmp_path / "run").status is Status.completed


@pytest.mark.long
def test_ctrl_c_asks_whether_to_follow_detach_or_cancel(azure: AzureService, tmp_path: Path) -> None:
    program, *arguments = command(*chosen(azure), *TINY, *ENDLESS, "run_dir=run")
    with pexpect.spawn(
        program,
        arguments,
        cwd=tmp_path,
        encoding="utf-8",
        timeout=120,
        dimensions=(40, 200),
        preexec_fn=hear_interrupts,
    ) as terminal:
        terminal.expect("epoch 1/")
        question = "ollow it, .*etach from it or .*ancel it"
        for answers, then in ((("what?", "f"), "epoch [0-9]"), (("c",), "ancell?ing")):
            terminal.sendintr()
            for answer in answers:
                terminal.expect(question)
                terminal.sendline(answer)
            terminal.expect(then)
        terminal.expect(pexpect.EOF)
    assert terminal.exitstatus == RunCancelled.exit_code
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


def test_an_interrupted_command_detaches_from_its_run(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    process.send_signal(signal.SIGINT)
    refused(end_of(process), 130, "follow run")
    follower = start_command("follow", "run", cwd=tmp_path)
    read_until("watch it in the studio", follower)
    follower.terminate()
    refused(end_of(follower), 130)
    assert run_here("status", "run", "--json", cwd=tmp_path).json()["status"] == "running"
    succeeded(run_here("cancel", "run", cwd=tmp_path), "cluster traincluster has 1 node", "cluster delete")
    assert run_here("follow", "run", cwd=tmp_path).code == RunCancelled.exit_code


def test_ctrl_c_before_the_submission_starts_no_run(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("GET", "/computes/", kind="delay", seconds=5))
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("GET", "/computes/", timeout=120)
    process.send_signal(signal.SIGINT)
    refused(end_of(process), 130, "interrupted before run was submitted", "cluster traincluster")
    assert submissions(azure) == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


@pytest.mark.long
def test_the_node_trains_what_was_submitted_although_it_changes_here(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    package = copy_package(tmp_path / "site")
    environment = {"PYTHONPATH": str(package.parent)}
    process = start_command(
        *chosen(azure), *SMALL, "run_dir=run", "register.name=null", cwd=tmp_path, **environment
    )
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    for name in ("train", "epoch", "model", "augmentation", "fast_layers"):  # what only a trainer imports
        path = package / "training" / f"{name}.py"
        assert path.is_file()
        path.write_text("raise SystemExit('damaged')\n")
    succeeded(end_of(process))
    assert result_of(tmp_path / "run").weights_sha256 == result_of(small_run).weights_sha256
