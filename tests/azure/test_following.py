"""A run on the cluster is never lost: whatever ends the command, the node or the network meanwhile."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from helpers.processes import SMALL, command, hear_interrupts, run_command

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import ENDLESS, TINY, calls, chosen, refused, start, train, wait_for_line
from helpers.disks import small_disk
from loopback import Fault

import mnist_cnn
from mnist_cnn import backends, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.config import CONF_DIR
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = pytest.mark.usefixtures("azure_environment")


def test_a_refused_look_at_the_log_or_the_state_does_not_end_the_following(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(
        Fault("GET", "/details$", occurrence=2, status=403),
        Fault("GET", "prefix/contentinfo", occurrence=3, status=403),
        Fault("GET", "user_logs", occurrence=2, status=403),
        Fault("GET", "workspaces/[^/]+/experiments/[^/]+/runs/[^/]+$", occurrence=2, kind="drop", times=3),
    )
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    assert "test accuracy" in ended.out


def test_a_cluster_that_never_gives_a_node_ends_the_wait_and_not_the_run(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(full=True)
    ended = train(azure, tmp_path, "backend.queue_timeout=4", "run_dir=run")
    refused(ended, BackendError.exit_code, "no node is free", "follow run", "cancel run")
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == 0, cancelled.err
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "snapshotrun$", id="as the run is submitted"),
        pytest.param("GET", "user_logs/std_log.txt$", id="while it trains"),
        pytest.param("GET", r"blob\.core.*outputs/result\.json$", id="while its result is brought"),
        pytest.param("POST", "/models$", id="as its model is registered"),
    ],
)
def test_a_command_killed_at_any_moment_after_the_submission_loses_nothing(
    azure: AzureService, tmp_path: Path, method: str, path: str
) -> None:
    process = start(azure, tmp_path, "run_dir=run", "register.name=killed", "register.min_accuracy=0")
    azure.requests.wait_for(method, path, timeout=120)
    process.kill()
    process.communicate(timeout=60)
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == 0, followed.err
    result = run_folder.read_result(tmp_path / "run")
    assert result is not None
    run_folder.verify(tmp_path / "run", result)
    run_id = run_folder.read_receipt(tmp_path / "run").id
    before = calls(azure, "POST", "/models")
    registered = run_command(
        "register", "run", "register.name=killed", "register.min_accuracy=0", cwd=tmp_path
    )
    assert registered.code == 0, registered.err
    assert calls(azure, "POST", "/models") == 1
    assert ("registered before" in registered.out) == bool(before)
    assert [run.run_id for run in azure.runs.all() if run.run_id == run_id] == [run_id]


def test_what_a_full_disk_here_does_not_take_is_brought_when_there_is_room(
    azure: AzureService, tmp_path: Path
) -> None:
    """The disk is full as the run is on its way, while it trains, and as its model is brought."""
    full = "No space left on device"
    with small_disk(tmp_path, "32m") as disk:
        submit = (*chosen(azure), *TINY, "run_dir=run")
        ended = disk.run(*submit, fill_at="command:run.json:2:0")
        unwritten = f"error: cannot write run/run.json: {full}; run has started and is still running"
        refused(ended, BackendError.exit_code, unwritten, "free some space there", "follow run")
        disk.fill()
        ended = disk.run("follow", "run")
        refused(ended, BackendError.exit_code, "error: cannot write run/", full, "free some space there")
        disk.fill(100_000)
        ended = disk.run("follow", "run")
        unwritten = f"error: cannot write run: {full}\n"
        refused(ended, BackendError.exit_code, unwritten, "free some space there", "follow run")
        assert not (disk.seen / "run" / "result.json").exists()
        disk.make_room()
        followed = disk.run("follow", "run", "--json")
        assert followed.code == 0, followed.err
        result = run_folder.read_result(disk.seen / "run")
        assert result is not None
        run_folder.verify(disk.seen / "run", result)
    assert calls(azure, "POST", "snapshotrun") == 1


def test_two_processes_may_follow_one_run(azure: AzureService, tmp_path: Path) -> None:
    first = start(azure, tmp_path, "run_dir=run", "train.epochs=3")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    second = run_command("follow", "run", cwd=tmp_path)
    out, err = first.communicate(timeout=120)
    assert (first.returncode, second.code) == (0, 0), err + second.err
    result = run_folder.read_result(tmp_path / "run")
    assert result is not None
    run_folder.verify(tmp_path / "run", result)
    text = (tmp_path / "run" / "log.txt").read_text()
    for epoch in (1, 2, 3):
        assert text.count(f"mnist_cnn epoch {epoch}/3 ") == 1
        assert f"epoch {epoch}/3" in out
        assert f"epoch {epoch}/3" in second.out


def test_a_minute_without_network_does_not_end_the_following(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    with azure.proxy.unplugged():
        time.sleep(60)
        assert process.poll() is None, process.communicate()
        status = run_command("status", "run", cwd=tmp_path)
        assert status.code == BackendError.exit_code
        assert "cannot reach the service" in status.err
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == 0, cancelled.err
    _, err = process.communicate(timeout=120)
    assert process.returncode == RunCancelled.exit_code
    assert "the run is still running; retrying for" in err


def test_a_run_whose_output_nobody_reads_any_more_is_sent_and_seen_through(
    azure: AzureService, tmp_path: Path
) -> None:
    """The reader goes before anything is submitted."""
    line = shlex.join(command(*chosen(azure), *TINY, "run_dir=run"))
    piped = f"{{ {line}; echo $? > code; }} 2>&1 | head -n 1"
    ended = subprocess.run(
        ["/bin/sh", "-c", piped], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.stdout.startswith("workspace ")
    assert len(ended.stdout.splitlines()) == 1
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0\n"
    assert run_folder.read_receipt(tmp_path / "run").status is Status.completed


def test_ctrl_c_asks_whether_to_follow_to_detach_or_to_cancel(azure: AzureService, tmp_path: Path) -> None:
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
        for answers, then in ((("what?", "f"), "epoch [2-9]"), (("c",), "cancelling the run")):
            terminal.sendintr()
            for answer in answers:
                terminal.expect(question)
                terminal.sendline(answer)
            terminal.expect(then)
        terminal.expect(pexpect.EOF)
    assert terminal.exitstatus == RunCancelled.exit_code
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


def test_the_node_trains_what_was_submitted_whatever_happens_to_the_copy_here(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    package = Path(mnist_cnn.__file__).parent
    shutil.copytree(package, site / "mnist_cnn", ignore=shutil.ignore_patterns("__pycache__"))
    for name, folder in (("backends", Path(backends.__file__).parent), ("conf", CONF_DIR)):
        shutil.copytree(folder, site / "mnist_cnn" / name, dirs_exist_ok=True)
    process = start(azure, tmp_path, *SMALL, "run_dir=run", PYTHONPATH=str(site))
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    for name in ("trainer.py", "train.py", "model.py", "data.py"):
        (site / "mnist_cnn" / name).write_text("raise SystemExit('damaged')\n")
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    result, local = (run_folder.read_result(folder) for folder in (tmp_path / "run", small_run))
    assert result is not None
    assert local is not None
    assert result.weights_sha256 == local.weights_sha256


def test_outputs_that_lost_their_result_are_no_success(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate(timeout=60)
    run = azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Completed")
    azure.handlers.artifacts.delete("ExperimentRun", run.container, "outputs/result.json")
    followed = run_command("follow", "run", cwd=tmp_path)
    refused(followed, BackendError.exit_code, "outputs/ has no result.json", "resume run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


def test_an_interrupted_command_detaches_and_the_run_can_be_cancelled(
    azure: AzureService, tmp_path: Path
) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run is still running" in err
    assert "Traceback" not in err
    follower = subprocess.Popen(command("follow", "run"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert follower.stderr is not None
    assert "watch it in the studio" in follower.stderr.readline()
    follower.terminate()
    _, err = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "run is still running" in err
    status = run_command("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "running"
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == 0, cancelled.err
    assert "cluster traincluster has 1 node" in cancelled.err
    assert "cluster delete" in cancelled.err
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == RunCancelled.exit_code


def test_a_run_that_is_cancelled_in_the_studio_is_exit_6(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    azure.runs.cancel(run_folder.read_receipt(tmp_path / "run").id)
    _, err = process.communicate(timeout=120)
    assert process.returncode == RunCancelled.exit_code, err
    assert not (tmp_path / "run" / "result.json").exists()


def test_ctrl_c_before_the_submission_starts_no_run(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("GET", "/computes/", kind="delay", seconds=5))
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("GET", "/computes/", timeout=120)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted before run was submitted" in err
    assert "cluster traincluster" in err
    assert calls(azure, "POST", "snapshotrun") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


def test_a_workspace_that_is_not_found_loses_no_run(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate(timeout=60)
    azure.faults.add(Fault("GET", "workspaces/loopback-workspace$", status=404, times=0))
    refused(run_command("follow", "run", cwd=tmp_path), BackendError.exit_code, "cannot open the workspace")
    refused(run_command("resume", "run", cwd=tmp_path), BackendError.exit_code, "cannot open the workspace")
    azure.faults.clear()
    assert run_command("resume", "run", cwd=tmp_path).code == ConfigurationError.exit_code  # for it goes on
    assert run_command("cancel", "run", cwd=tmp_path).code == 0


def test_a_run_is_finalizing_until_its_result_is_here(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate(timeout=60)
    azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Completed")
    assert run_command("status", "run", "--json", cwd=tmp_path).json()["status"] == "finalizing"
    assert run_command("follow", "run", cwd=tmp_path).code == 0
    assert run_command("status", "run", "--json", cwd=tmp_path).json()["status"] == "completed"


def test_how_a_run_failed_is_read_from_its_log_although_that_is_refused_for_a_while(
    azure: AzureService, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text("def build(config, input_shape, num_classes):\n    return 1 / 0\n")
    azure.faults.add(Fault("GET", "prefix/contentinfo", status=403, times=0))
    process = start(azure, tmp_path, "model.file=net.py", "run_dir=run")
    azure.requests.wait_for("POST", "snapshotrun$", timeout=120)
    azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    azure.requests.clear()
    azure.requests.wait_for("GET", "prefix/contentinfo", timeout=60)
    azure.faults.clear()
    _, err = process.communicate(timeout=120)
    assert process.returncode == ConfigurationError.exit_code, err
    assert "division by zero" in err


def test_a_state_that_is_not_known_counts_as_running(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, *ENDLESS, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    run = azure.runs[run_folder.read_receipt(tmp_path / "run").id]
    azure.runs.advance(run, "Meditating")
    status = run_command("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "running"
    assert "the unknown state Meditating" in status.err
    assert run_command("cancel", "run", cwd=tmp_path).code == 0
    process.communicate(timeout=120)
    assert process.returncode == RunCancelled.exit_code
    azure.requests.clear()  # of a state that is yet to come no document knows


def test_of_two_that_resume_at_once_one_does(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(full=True)
    first = train(azure, tmp_path, "backend.queue_timeout=1", "run_dir=run")
    refused(first, BackendError.exit_code, "no node is free")
    assert run_command("cancel", "run", cwd=tmp_path).code == 0
    azure.clusters.behave(full=False)
    azure.requests.clear()
    both = [
        subprocess.Popen(
            command("resume", "run", "register.name=null"),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=180)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, ConfigurationError.exit_code], said
    assert calls(azure, "POST", "snapshotrun") == 1
