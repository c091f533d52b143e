"""Executes runs: image, queue, node, process, end. Each active run has a thread."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import distributed, node_logs, rules, run_errors, v2_node
from .mounts import Mount, MountError, WriteThrough
from .node import Launch, Node, job_environment
from .process import Process, Processes

if TYPE_CHECKING:
    from .compute import Cluster
    from .handlers import Handlers
    from .history import Run
    from .messages import Json

RUN_SCRIPT = Path(__file__).with_name("run_script.py")
ORIGIN = "ExperimentRun"
STATUS_TAG = "_aml_system_ComputeTargetStatus"
"""The tag that the service itself writes while a run waits for a node."""
IMAGE_BUILD_BEGINS = "======Starting Image Build on Serverless Compute======\n"
MAX_STARTS = 5
"""How often a job is started at most, if its nodes are preempted again and again."""


class Failed(Exception):  # noqa: N818 - how a run ends
    """The run fails with an error of `run_errors`."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["error"]["message"])
        self.error = error


class ScriptFailed(Exception):  # noqa: N818 - how a run ends
    """The run fails because its script ended with a non-zero exit code, after it wrote the log."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        self.log = log


class Cancelled(Exception):  # noqa: N818 - how a run ends
    """The run was cancelled."""


class Jobs:
    """Executes runs."""

    def __init__(self, handlers: Handlers, node: Node) -> None:
        self.handlers = handlers
        self.node = node
        self.runs = handlers.runs
        self.clusters = handlers.clusters
        self.images: list[str] = []
        """The digest of each environment for which an image was built."""
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._processes: dict[str, Processes] = {}

    def start(self, run: Run) -> None:
        thread = threading.Thread(target=self._execute, args=(run,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Cancel all active runs."""
        with self.runs.changed:
            self._closing = True
            self.runs.changed.notify_all()
        for thread in self._threads:
            thread.join(30)

    def lose_node(self, run_id: str) -> None:
        """Take away the node of an active run."""
        self._processes[run_id].lose_node()

    def kill_last_process(self, run_id: str) -> None:
        """Kill the process on the last node of an active run."""
        self._processes[run_id].kill_last()

    def log_files(self, run: Run) -> dict[str, str]:
        """Return the run's logs by name, each with a URL."""
        paths = self.handlers.artifacts.paths(ORIGIN, run.container)
        logs = [path for path in paths if path.startswith(node_logs.FOLDERS)]
        return {path: self.handlers.artifacts.url(ORIGIN, run.container, path) for path in logs}

    def _execute(self, run: Run) -> None:
        definition = run.definition or {}
        deadline = definition.get("maxRunDurationSeconds")
        cluster = self.clusters[definition["target"]]
        try:
            self._prepare(run, definition["environment"])
            for start in range(1, MAX_STARTS + 1):
                self._await_node(run, cluster)
                try:
                    restarts = self._run_once(run, cluster, start, deadline)
                finally:
                    self.clusters.release(cluster, run.run_id)
                if not restarts:
                    break
            self.runs.advance(run, "Completed")
        except Cancelled:
            self.runs.advance(run, "Canceled")
        except Failed as failure:
            self.runs.advance(run, "Failed", failure.error)
        except ScriptFailed as failure:
            self._fail_script(run, failure)
        except Exception as error:
            text = f"the loopback service itself failed: {error!r}"
            self.runs.advance(run, "Failed", run_errors.of_service(text, code="ServiceError"))
            raise

    def _fail_script(self, run: Run, failure: ScriptFailed) -> None:
        """Fail a run with the error that its script reported, if any; the service's own is then a warning."""
        properties = (run.definition or {}).get("arm")
        if properties is not None:
            error = run_errors.user_process(properties["command"], failure.code, failure.log)
            self.runs.advance(run, "Failed", error)
            return
        with self.runs.changed:
            reported = run.document.get("error")
            if reported is not None:
                others = run.document.get("warnings") or []
                run.document["warnings"] = [*others, run_errors.secondary_warning()]
            error = run_errors.job_failed() if reported is None else run_errors.user_program(reported)
            self.runs.advance(run, "Failed", error)

    def _prepare(self, run: Run, environment: Json) -> None:
        """Build the environment's image, unless it exists."""
        self.runs.advance(run, "Preparing")
        digest = hashlib.sha256(json.dumps(environment.get("python"), sort_keys=True).encode()).hexdigest()
        if digest not in self.images:
            self._write_log(run, node_logs.IMAGE_LOG, IMAGE_BUILD_BEGINS)
            with self.runs.changed:
                self.runs.changed.wait_for(
                    lambda: self._is_cancelled(run) or not self.clusters.behaviour.building
                )
                if self._is_cancelled(run):
                    raise Cancelled
            problem = rules.environment_problem(environment)
            text = f"ERROR: {problem}" if problem else "Successfully built the image"
            self._write_log(run, node_logs.IMAGE_LOG, f"{IMAGE_BUILD_BEGINS}{text}\n")
            if problem:
                raise Failed(run_errors.image_build())
            self.images.append(digest)
            self.handlers.workspace.has_registry = True

    def _write_log(self, run: Run, path: str, text: str) -> None:
        self.handlers.artifacts.write(ORIGIN, run.container, path, text.encode())

    def _await_node(self, run: Run, cluster: Cluster) -> None:
        self.runs.advance(run, "Queued")
        count = _node_count(run)
        with self.runs.changed:
            run.document["tags"][STATUS_TAG] = _status_of(cluster)
            cluster.waiting += [run.run_id] * count
            self.runs.changed.wait_for(
                lambda: (
                    self._is_cancelled(run)
                    or cluster.state != "Succeeded"
                    or self.clusters.has_nodes_for(cluster, run.run_id, count)
                )
            )
            cluster.waiting = [waiting for waiting in cluster.waiting if waiting != run.run_id]
            self.runs.changed.notify_all()
            if self._is_cancelled(run):
                raise Cancelled
            if cluster.state == "Failed":
                text = f"{cluster.name} is in failed state and thus not ready for runs"
                raise Failed(run_errors.of_service(text))
            if cluster.state != "Succeeded":
                raise Failed(_deleted(cluster))
            cluster.busy += [run.run_id] * count
            del cluster.idle_until[:count]

    def _run_once(self, run: Run, cluster: Cluster, start: int, deadline: float | None) -> bool:
        """Run the script to its end; return whether the job must start again because it was preempted."""
        folder = self.node.folder / f"{run.run_id}-{start}"
        try:
            process, ended = self._run_in(folder, run, cluster, deadline)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if process.has_lost_node:
            self._preempt(run, cluster)
            return True
        self.runs.advance(run, "Finalizing")
        if ended:
            raise ScriptFailed(ended, process.log())
        return False

    def _run_in(
        self, folder: Path, run: Run, cluster: Cluster, deadline: float | None
    ) -> tuple[Processes, int]:
        """Run the script with its code, data and home in a folder; return its processes and exit code."""
        for name in ("code", "home"):
            (folder / name).mkdir(parents=True)
        launch = self._launch(run, folder)
        behaviour = self.clusters.behaviour
        preempt_at = behaviour.preempt_at if cluster.is_low_priority else None
        logs = node_logs.common_runtime(_node_count(run))
        if behaviour.old_runtime:
            logs = node_logs.old_runtime(_node_count(run), is_low_priority=cluster.is_low_priority)
        self.runs.advance(run, "Running")
        for name in logs.before:
            self._write_log(run, name, f"{name}: the job starts\n")
        process = self._start_processes(run, folder, launch, logs.scripts, preempt_at)
        self._processes[run.run_id] = process
        write_through = WriteThrough(launch.mounts)
        try:
            return process, self._await_end(run, cluster, process, deadline)
        finally:
            process.kill()
            write_through.stop()
            if not process.has_lost_node:  # else the node is gone, and its outputs with it
                self._upload_outputs(run, folder / "code")
            for name in logs.after:
                self._write_log(run, name, f"{name}: the job has ended\n")

    def _start_processes(
        self, run: Run, folder: Path, launch: Launch, logs: tuple[str, ...], preempt_at: str | None
    ) -> Processes:
        """Start the script on each node; a line of the first one that matches takes its node away."""
        nodes = distributed.node_environments(folder, launch.environment, len(logs))
        processes: list[Process] = []
        for log, (code, environment) in zip(logs, nodes, strict=True):
            write_log = functools.partial(self.handlers.artifacts.write, ORIGIN, run.container, log)
            kill_at = None if processes else preempt_at
            processes.append(Process(launch.command, code, environment, write_log, kill_at))
        return Processes(processes)

    def _upload_outputs(self, run: Run, code: Path) -> None:
        """Upload what a job of SDK v2 has left; in a run of SDK v1 azureml does it."""
        if "arm" in (run.definition or {}):
            for path, content in v2_node.outputs(code).items():
                self.handlers.artifacts.write(ORIGIN, run.container, path, content)

    def _launch(self, run: Run, folder: Path) -> Launch:
        """Return how to start a run; its code and its data are then in the folder."""
        definition = run.definition or {}
        try:
            if "arm" in definition:
                return v2_node.launch(self.handlers, self.handlers.v2.assets, self.node, run, folder)
            self.handlers.snapshots.unpack(definition["snapshotId"], folder / "code")
            mounts = self._mount(definition, folder / "mounts")
        except MountError as error:
            raise Failed(run_errors.of_service(str(error), "DataReferenceError")) from error
        mounted = {f"$AZUREML_DATAREFERENCE_{mount.name}": str(mount.path) for mount in mounts}
        arguments = [mounted.get(str(token), str(token)) for token in definition.get("arguments") or []]
        command = [str(self.node.python), "-P", "-u", str(RUN_SCRIPT), definition["script"], *arguments]
        environment = job_environment(self.node, self.handlers, run, folder / "home")
        environment |= {name.removeprefix("$"): path for name, path in mounted.items()}
        return Launch(command, environment, mounts)

    def _await_end(self, run: Run, cluster: Cluster, process: Processes, deadline: float | None) -> int:
        """Return the exit code; end the process if the run is cancelled or late, or its cluster deleted."""
        ended = threading.Event()

        def notify_at_end() -> None:
            process.wait()
            with self.runs.changed:
                ended.set()
                self.runs.changed.notify_all()

        threading.Thread(target=notify_at_end, daemon=True).start()
        started = time.monotonic()
        with self.runs.changed:
            in_time = self.runs.changed.wait_for(
                lambda: ended.is_set() or self._is_cancelled(run) or cluster.state == "Deleting", deadline
            )
            is_cancelled, is_deleted = self._is_cancelled(run), cluster.state == "Deleting"
        if ended.is_set():
            return process.wait(60)
        process.terminate()
        process.wait(60)
        if not in_time:
            seconds = time.monotonic() - started
            run.document["cancelationReason"] = f"The run exceeded {deadline} s; it ran {seconds:.0f} s."
            self.runs.advance(run, "CancelRequested")
        if is_deleted and not is_cancelled:
            raise Failed(_deleted(cluster))
        raise Cancelled

    def _preempt(self, run: Run, cluster: Cluster) -> None:
        """Take the job's node from the cluster.

        Raises:
            Failed, Cancelled: preempted jobs do not start again on this cluster.
        """
        with self.runs.changed:
            cluster.busy.remove(run.run_id)
            cluster.preempted += 1
            behaviour = self.clusters.behaviour
            behaviour.preemptions -= 1
            if not behaviour.preemptions:
                behaviour.preempt_at = None
        if behaviour.cancels:
            raise Cancelled
        if not behaviour.restarts:
            text = "PreemptionError: Nodes of this job got pre-empted."
            reason = "Reason: Received pre-emption warning signal"
            raise Failed(run_errors.of_service(f"AzureMLCompute job failed. {text} {reason}"))

    def _mount(self, definition: Json, folder: Path) -> list[Mount]:
        mounts = []
        for name, reference in (definition.get("dataReferences") or {}).items():
            mount = Mount(self.handlers.blobs, name, reference, folder)
            mount.download()
            mounts.append(mount)
        return mounts

    def _is_cancelled(self, run: Run) -> bool:
        return self._closing or run.status in {"CancelRequested", "Canceled"}


def _node_count(run: Run) -> int:
    return int((run.definition or {}).get("nodeCount") or 1)


def _deleted(cluster: Cluster) -> Json:
    text = f"The compute target {cluster.name} was deleted."
    return run_errors.of_service(text, "ComputeTargetNotFound")


def _status_of(cluster: Cluster) -> str:
    """Return a cluster's nodes as the service writes them into a tag."""
    counts = {"PreparingNodeCount": 0, "RunningNodeCount": len(cluster.busy)}
    counts["CurrentNodeCount"] = len(cluster.busy) + cluster.idle_nodes()
    return json.dumps({"AllocationState": "steady", **counts}, separators=(",", ":"))
