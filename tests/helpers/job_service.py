"""A small job service with an HTTP API, for the backend in docs/extending.md. It runs jobs as processes here.

    PUT  /jobs/ID             start a job: {"command": [...], "environment": {...}, "mounts": {NAME: FOLDER}}
    GET  /jobs/ID             {"state": STATE, "error": TEXT}
    POST /jobs/ID/cancel
    GET  /jobs/ID/log         what the job has printed since its last start; "Range: bytes=N-" is understood
    GET  /jobs/ID/files       the names of the files in the job's ./outputs
    GET  /jobs/ID/files/NAME
    GET  /store/FOLDER/       {NAME: {"bytes": LENGTH, "md5": HEX}}
    GET  /store/NAME, PUT /store/NAME, DELETE /store/NAME

A job runs in a folder of its own, in which the mounts are folders of the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

TERMINATE_SECONDS = 5.0


@dataclasses.dataclass
class Job:
    """A job, and the process that runs it now."""

    request: dict[str, Any]
    folder: Path
    state: str = "waiting"
    error: str = ""
    starts: int = 0
    is_cancelled: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def node(self) -> Path:
        """The folder of the last start."""
        return self.folder / str(self.starts)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


class JobService(ThreadingHTTPServer):
    """The service on a free port; a context manager. Implements `mnist_cnn.testing.FaultInjector`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.files = folder / "store"
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._nodes: list[threading.Thread] = []
        self._starts: list[str] = []
        self._damaged: set[tuple[str, str]] = set()
        self._loses_answer = False
        self._absent_polls = 0
        self._loss: tuple[str, bool] | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.jobs:
            self.cancel(name)
        for thread in self._nodes:
            thread.join(60)
        self.shutdown()
        self.server_close()

    # -- what a test asks for --------------------------------------------------------------------------

    def starts(self) -> list[str]:
        return list(self._starts)

    def lose_next_response(self) -> None:
        self._loses_answer = True

    def fail_next_polls(self, polls: int) -> None:
        self._absent_polls = polls

    def lose_next_node(self, line: str, *, requeues: bool) -> None:
        self._loss = (line, requeues)

    @contextlib.contextmanager
    def damaged(self, run_id: str, name: str) -> Iterator[None]:
        self._damaged.add((run_id, name))
        yield
        self._damaged.remove((run_id, name))

    def reset(self) -> None:
        self._loses_answer = False
        self._absent_polls = 0
        self._loss = None

    # -- what requests do ------------------------------------------------------------------------------

    def start(self, name: str, request: dict[str, Any]) -> bool:
        """Start a job unless its name is known; return whether the answer gets lost."""
        with self._lock:
            if name not in self.jobs:
                self.jobs[name] = job = Job(request, self.folder / "jobs" / name)
                job.folder.mkdir(parents=True)
                self._starts.append(name)
                self._nodes.append(threading.Thread(target=self._run, args=(job,), daemon=True))
                self._nodes[-1].start()
            is_lost, self._loses_answer = self._loses_answer, False
            return is_lost

    def is_absent(self) -> bool:
        with self._lock:
            self._absent_polls -= 1
            return self._absent_polls >= 0

    def cancel(self, name: str) -> None:
        with self._lock:
            job = self.jobs[name]
            job.is_cancelled = True
            process = job.process
        if process is not None:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TERMINATE_SECONDS)
            _signal(process, signal.SIGKILL)

    def output(self, name: str, file: str) -> bytes:
        content = (self.jobs[name].node / "outputs" / file).read_bytes()
        return content[:-1] + b"?" if (name, file) in self._damaged else content

    def stored(self, name: str) -> Path:
        path = (self.files / name).resolve()
        assert path.is_relative_to(self.files.resolve())
        return path

    def write(self, name: str, content: bytes) -> None:
        half = self.folder / secrets.token_hex(8)
        half.write_bytes(content)
        self.stored(name).parent.mkdir(parents=True, exist_ok=True)
        half.replace(self.stored(name))

    # -- nodes -----------------------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        """Run a job to its end, again if its node is lost and it is requeued."""
        while (loss := self._run_once(job)) is not None and loss[1] and not job.is_cancelled:
            job.state = "waiting"
        code = job.process.wait() if job.process is not None else 0
        if job.is_cancelled:
            job.state = "cancelled"
        elif loss is not None:
            job.error, job.state = "the node was lost", "lost"
        elif code:
            last = job.log.read_text().strip().rpartition("\n")[2]
            job.error, job.state = f"the command ended with exit code {code}: {last}", "failed"
        else:
            job.state = "succeeded"

    def _run_once(self, job: Job) -> tuple[str, bool] | None:
        """Run a job's command; return the loss of its node, or None."""
        job.starts += 1
        job.node.mkdir()
        for mount, folder in job.request["mounts"].items():
            self.stored(folder).mkdir(parents=True, exist_ok=True)
            (job.node / mount).symlink_to(self.stored(folder))
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        loss: tuple[str, bool] | None = None
        with self._lock:
            if job.is_cancelled:
                return None
            job.process = process = subprocess.Popen(
                job.request["command"],
                cwd=job.node,
                env={**os.environ, "PATH": path, **job.request["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            job.state = "running"
        assert process.stdout is not None
        with process.stdout, job.log.open("wb", buffering=0) as log:
            for line in process.stdout:
                log.write(line)
                if (armed := self._loss) is not None and armed[0].encode() in line:
                    loss, self._loss = armed, None
                    _signal(process, signal.SIGKILL)
        process.wait()
        return loss


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class Handler(BaseHTTPRequestHandler):
    server: JobService

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        kind, _, name = self.path.lstrip("/").partition("/")
        if kind == "store":
            self.server.write(name, content)
        elif self.server.start(name, json.loads(content)):
            return
        self._answer(b"", 201)

    def do_POST(self) -> None:
        match = re.fullmatch("/jobs/([^/]+)/cancel", self.path)
        if match is None or match[1] not in self.server.jobs:
            self._answer(b"not found", 404)
            return
        self.server.cancel(match[1])
        self._answer(b"")

    def do_DELETE(self) -> None:
        self.server.stored(self.path.removeprefix("/store/")).unlink(missing_ok=True)
        self._answer(b"", 204)

    def do_GET(self) -> None:
        kind, _, path = self.path.lstrip("/").partition("/")
        name, _, rest = path.partition("/")
        if kind == "jobs" and not rest and self.server.is_absent():
            return
        try:
            self._answer(*(self._stored(path) if kind == "store" else self._job(name, rest)))
        except (FileNotFoundError, KeyError):
            self._answer(b"not found", 404)

    def _stored(self, name: str) -> tuple[bytes, int]:
        path = self.server.stored(name)
        if not name.endswith("/"):
            return path.read_bytes(), 200
        contents = {f"{name}{file.relative_to(path)}": file.read_bytes() for file in _files(path)}
        listed = {
            file: {"bytes": len(content), "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
            for file, content in contents.items()
        }
        return json.dumps(listed).encode(), 200

    def _job(self, name: str, rest: str) -> tuple[bytes, int]:
        job = self.server.jobs[name]
        if not rest:
            return json.dumps({"state": job.state, "error": job.error}).encode(), 200
        if rest == "files":
            return json.dumps([path.name for path in _files(job.node / "outputs")]).encode(), 200
        if rest.startswith("files/"):
            return self.server.output(name, rest.removeprefix("files/")), 200
        log = job.log.read_bytes() if job.log.exists() else b""
        first = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])  # type: ignore[index]
        return (log[first:], 206) if first < len(log) else (b"", 416)

    def _answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the client was killed
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]
