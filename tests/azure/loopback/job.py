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

from . import rules
from .mounts import Mount, MountError, WriteThrough
from .node import Node, job_environment
from .process import Process
from .refusals import data_plane_error

if TYPE_CHECKING:
    from .compute import Cluster
    from .handlers import Handlers
    from .history import Run
    from .messages import Json

RUN_SCRIPT = Path(__file__).with_name("run_script.py")
ORIGIN = "ExperimentRun"
USER_LOG = "user_logs/std_log.txt"
IMAGE_LOG = "azureml-logs/20_image_build_log.txt"
LOG_FOLDERS = ("user_logs/", "system_logs/", "azureml-logs/", "logs/")
MAX_STARTS = 5
"""How often a job is started at most, if its nodes are preempted again and again."""


class Failed(Exception):  # noqa: N818 - how a run ends
    """The run fails; `inner` is Azure's code for the reason."""

    def __init__(self, message: str, inner: str = "UserError") -> None:
        super().__init__(message)
        self.message = message
        self.inner = inner


class Cancelled(Exception):  # noqa: N818 - how a run ends
    """The run was cancelled."""


class Jobs:
    """Executes runs."""

    def __init__(self, handlers: Handlers, node: Node) -> None:
        self.handlers = handlers
        self.node = node
        self.runs = handlers.runs
        self.clusters = handlers.clusters
        self.artifacts = handlers.artifacts
        self.images: list[str] = []
        """The digest of each environment for which an image was built."""
        self._closing = False
        self._threads: list[threading.Thread] = []

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

    def log_files(self, run: Run) -> dict[str, str]:
        """Return the run's logs by name, each with a URL."""
        paths = self.artifacts.paths(ORIGIN, run.container)
        logs = [path for path in paths if path.startswith(LOG_FOLDERS)]
        return {path: self.artifacts.url(ORIGIN, run.container, path) for path in logs}

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
            self._fail(run, failure)
        except Exception as error:
            self._fail(run, Failed(f"the loopback service itself failed: {error!r}", "ServiceError"))
            raise

    def _fail(self, run: Run, failure: Failed) -> None:
        reported = run.document.get("error")  # by the script itself
        error = reported or data_plane_error("UserError", failure.message, failure.inner)
        self.runs.advance(run, "Failed", error)

    def _prepare(self, run: Run, environment: Json) -> None:
        """Build the environment's image, unless it exists."""
        self.runs.advance(run, "Preparing")
        digest = hashlib.sha256(json.dumps(environment.get("python"), sort_keys=True).encode()).hexdigest()
        if digest not in self.images:
            problem = rules.environment_problem(environment)
            text = problem or "Successfully built the image"
            self.artifacts.write(ORIGIN, run.container, IMAGE_LOG, f"{text}\n".encode())
            if problem:
                raise Failed(
                    f"Image build failed. For more details, check log file {IMAGE_LOG}. {problem}",
                    "ImageBuildFailure",
                )
            self.images.append(digest)
            self.handlers.workspace.has_registry = True

    def _await_node(self, run: Run, cluster: Cluster) -> None:
        self.runs.advance(run, "Queued")
        with self.runs.changed:
            cluster.waiting.append(run.run_id)
            self.runs.changed.wait_for(
                lambda: (
                    self._is_cancelled(run)
                    or cluster.state != "Succeeded"
                    or self.clusters.has_node_for(cluster, run.run_id)
                )
            )
            cluster.waiting.remove(run.run_id)
            self.runs.changed.notify_all()
            if self._is_cancelled(run):
                raise Cancelled
            if cluster.state != "Succeeded":
                raise Failed(f"The compute target {cluster.name} was deleted.", "ComputeTargetNotFound")
            cluster.busy.append(run.run_id)
            if cluster.idle_until:
                cluster.idle_until.pop()

    def _run_once(self, run: Run, cluster: Cluster, start: int, deadline: float | None) -> bool:
        """Run the script to its end; return whether the job must start again because it was preempted."""
        folder = self.node.folder / f"{run.run_id}-{start}"
        try:
            process, ended = self._run_in(folder, run, cluster, deadline)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if process.killed_at_line:
            self._preempt(run, cluster)
            return True
        self.runs.advance(run, "Finalizing")
        if ended:
            tail = process.log().strip().rpartition("\n")[2]
            text = f"Submitted script failed with a non-zero exit code; exit code {ended}. {tail}"
            raise Failed(f"AzureMLCompute job failed. JobFailed: {text}", "JobFailed")
        return False

    def _run_in(
        self, folder: Path, run: Run, cluster: Cluster, deadline: float | None
    ) -> tuple[Process, int]:
        """Run the script with its code, data and home in a folder; return its process and exit code."""
        definition = run.definition or {}
        code, home = folder / "code", folder / "home"
        for path in (code, home):
            path.mkdir(parents=True)
        self.handlers.snapshots.unpack(definition["snapshotId"], code)
        mounts = self._mount(definition, folder / "mounts")
        mounted = {f"$AZUREML_DATAREFERENCE_{mount.name}": str(mount.path) for mount in mounts}
        arguments = [mounted.get(str(token), str(token)) for token in definition.get("arguments") or []]
        command = [str(self.node.python), "-P", "-u", str(RUN_SCRIPT), definition["script"], *arguments]
        environment = job_environment(self.node, self.handlers, run, home)
        environment |= {name.removeprefix("$"): path for name, path in mounted.items()}
        preempt_at = self.clusters.behaviour.preempt_at if cluster.is_low_priority else None
        self.runs.advance(run, "Running")
        write_log = functools.partial(self.artifacts.write, ORIGIN, run.container, USER_LOG)
        process = Process(command, code, environment, write_log, preempt_at)
        write_through = WriteThrough(mounts)
        try:
            return process, self._await_end(run, cluster, process, deadline)
        finally:
            process.kill()
            write_through.stop()

    def _await_end(self, run: Run, cluster: Cluster, process: Process, deadline: float | None) -> int:
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
            raise Failed(f"The compute target {cluster.name} was deleted.", "ComputeTargetNotFound")
        raise Cancelled

    def _preempt(self, run: Run, cluster: Cluster) -> None:
        """Take the job's node from the cluster.

        Raises:
            Failed: preempted jobs do not start again on this cluster.
        """
        with self.runs.changed:
            cluster.busy.remove(run.run_id)
            cluster.preempted += 1
            behaviour = self.clusters.behaviour
            behaviour.preemptions -= 1
            if not behaviour.preemptions:
                behaviour.preempt_at = None
        if not behaviour.restarts:
            text = "PreemptionError: Nodes of this job got pre-empted."
            reason = "Reason: Received pre-emption warning signal"
            raise Failed(f"AzureMLCompute job failed. {text} {reason}", "PreemptionError")

    def _mount(self, definition: Json, folder: Path) -> list[Mount]:
        mounts = []
        for name, reference in (definition.get("dataReferences") or {}).items():
            try:
                mount = Mount(self.handlers.blobs, name, reference, folder)
                mount.download()
            except MountError as error:
                raise Failed(str(error), "DataReferenceError") from error
            mounts.append(mount)
        return mounts

    def _is_cancelled(self, run: Run) -> bool:
        return self._closing or run.status in {"CancelRequested", "Canceled"}
