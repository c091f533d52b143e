"""A real Slurm on this machine: munged, slurmctld and three slurmds in a folder of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge"
NODES = ("n1", "n2", "n3")
RESOURCES = "CPUs=2 RealMemory=4000"
SECONDS = 30.0
PATH = "/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=2
WaitTime=1
MinJobAge=3600
MessageTimeout=5
SlurmctldTimeout=5
SlurmdTimeout=5
EnforcePartLimits=NO
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=600 State=UP PriorityTier=10
PartitionName=spare Nodes=n1 MaxTime=600 State=UP PreemptMode=CANCEL
PartitionName=short Nodes=n1 MaxTime=10 State=UP
PartitionName=down Nodes=n3 MaxTime=600 State=DOWN
"""


def missing() -> str:
    """Return why no Slurm can be started here, or an empty string."""
    absent = [name for name in PROGRAMS if not _program(name)]
    if absent:
        return f"{', '.join(absent)} not found; install Slurm: {INSTALL}"
    if os.geteuid() != 0:
        return "only root can start nodes that run jobs"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")


class SlurmCluster:
    """A controller and three nodes. `environment` leads the programs of Slurm to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._configure()
            self._start_munge()
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_controller(self) -> None:
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        _wait(lambda: "UP" in self.run("scontrol", "ping", check=False), "the controller is up")

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def forget_jobs(self) -> None:
        """Let the controller forget all jobs, as it does by itself after MinJobAge; ids start at 1 again."""
        self.stop_controller()
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()
        self.start_controller()
        self.wait_until_idle()

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"), name=node)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all that runs on it, at once."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        on_node = [process for process in psutil.process_iter() if self._is_on(process, node)]
        # The steps' managers first, so that none reports the end of its step.
        for process in (*_managers(on_node), *on_node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def wait_until_idle(self, *nodes: str) -> None:
        """Wait until nodes accept jobs."""
        for node in nodes or NODES:
            _wait(lambda: self.node_state(node) == "IDLE", f"{node} is idle")  # noqa: B023 - called at once

    def node_state(self, node: str) -> str:
        # sinfo shows nodes as MIXED for a while after a restart of the controller.
        return self.run("scontrol", "--oneliner", "show", "node", node).partition(" State=")[2].split()[0]

    def run(self, *words: str, check: bool = True) -> str:
        """Return what a program of Slurm prints."""
        environment = {**os.environ, **self.environment}
        ended = subprocess.run(words, env=environment, capture_output=True, timeout=60, check=False)
        output = (ended.stdout + ended.stderr).decode(errors="replace")
        assert ended.returncode == 0 or not check, f"{' '.join(words)}: {output}"
        return output

    def jobs(self, name: str) -> list[str]:
        """Return the ids of the jobs with a name, also of those that have ended."""
        return self.run("squeue", "-h", "-t", "all", "-n", name, "-o", "%A").split()

    def cancel_all(self) -> None:
        """Cancel all jobs, wait until they are gone, and let each node accept jobs."""
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        _wait(lambda: not self.run("squeue", "-h").strip(), "all jobs have ended")
        self.revive()
        self.wait_until_idle()

    def revive(self) -> None:
        """Start the nodes that were killed, and let each node accept jobs."""
        for node in NODES:
            if node not in self._daemons:
                self.start_node(node)
        if not all(self.node_state(node) == "IDLE" for node in NODES):
            self.run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME", check=False)

    def stop(self) -> None:
        """Stop all daemons and all that they started."""
        if "slurmctld" in self._daemons:
            self.run("scancel", f"--user={getpass.getuser()}", check=False)
        for node in [name for name in self._daemons if name in NODES]:
            self.kill_node(node)
        for name in reversed(list(self._daemons)):
            self._stop(name)

    def _is_on(self, process: psutil.Process, node: str) -> bool:
        """Return whether a process belongs to a job on a node of this cluster."""
        with contextlib.suppress(psutil.Error):
            found = process.environ()
            ours = {"SLURMD_NODENAME": node, **self.environment}
            return all(found.get(name) == value for name, value in ours.items())
        return False

    def _configure(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)  # munged wants its folder to be readable
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        controller_port, *ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} {RESOURCES}"
            for node, port in zip(NODES, ports, strict=True)
        )
        text = CONFIGURATION.format(
            controller_port=controller_port,
            user=getpass.getuser(),
            folder=self.folder,
            nodes=nodes,
        )
        (self.folder / "slurm.conf").write_text(text)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
        _wait((self.folder / "munge.socket").exists, "munged listens")

    def _start(self, program: str, *arguments: str, name: str = "") -> None:
        path = _program(program)
        assert path is not None
        with (self.folder / f"{name or program}.out").open("ab") as output:
            self._daemons[name or program] = subprocess.Popen(
                (path, *arguments),
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _managers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the slurmstepds that started processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parents = {parent for process in processes for parent in process.parents()}
        return [parent for parent in parents if parent.name() == "slurmstepd"]
    return []


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} seconds: {what}"
        time.sleep(0.05)
