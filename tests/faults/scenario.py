"""Runs scenarios on a loopback service: the product's own commands, with fresh names each time."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import Ended, command
from loopback import Behaviour

from mnist_cnn import data, run_folder
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.data.idx import read_idx

from .kinds import Kind
from .readers.mutations import idx_header

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.faults import Fault
    from loopback.history import Run
    from loopback.messages import Json, Request
    from loopback.recording import Exchange

    from mnist_cnn.result import Result

CASE_SECONDS = 480.0
"""Limit of a command, whichever request fails. On the node the SDK retries for up to 5 minutes."""
IMAGES = {"train": 1000, "t10k": 500}
RUN = "run"
DATA = "images"
FIRST, AGAIN, CANCEL = "first run", "next run", "cancel"
SCENARIOS = (AGAIN, FIRST, CANCEL)
"""next run: data, code and experiment exist, and a cluster that differs from the configuration; first run:
nothing exists; cancel: a run that waits for a node is cancelled and its cluster deleted. Cheapest first."""


@dataclasses.dataclass
class ScenarioRecord:
    """What a scenario did: how its commands ended, and the service's requests and runs."""

    scenario: str
    home: Path
    cluster: str
    model: str
    ended: list[Ended] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    timed_out: str = ""
    exchanges: list[Exchange] = dataclasses.field(default_factory=list)
    runs: list[Run] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.home / RUN

    @property
    def result(self) -> Result | None:
        return run_folder.read_result(self.folder)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of its requests, in order."""
        return [Kind.of(made.method, made.template, made.path) for made in self.exchanges]

    def refused_at_first(self) -> list[Kind]:
        """Return the kinds whose first request was refused because the resource did not exist yet."""
        first: dict[Kind, int] = {}
        for kind, exchange in zip(self.kinds, self.exchanges, strict=True):
            first.setdefault(kind, exchange.status)
        return [kind for kind, status in first.items() if status >= 400]

    def printed(self) -> str:
        """Return everything that the commands printed."""
        return "".join(f"{ended.out}{ended.err}" for ended in self.ended) + self.timed_out


class ScenarioRunner:
    """Runs scenarios on one service, one at a time."""

    def __init__(self, service: AzureService, folder: Path, sdk: Sdk = Sdk.v1) -> None:
        self.service = service
        self.sdk = sdk
        self.folder = folder
        self._numbers = itertools.count(1)
        self._is_warm = False
        self.is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._deleted_data: dict[str, bytes] = {}
        self._before: set[str] = set()
        write_few_images(self.folder / DATA)

    def run_scenario(self, scenario: str, *faults: Fault) -> ScenarioRecord:
        """Run a scenario with these faults; a warm-up run comes before the first next run."""
        if not self._is_warm and scenario != FIRST:
            self._is_warm = True
            self.clear(self.run_scenario(AGAIN))
        record = self._prepare(scenario)
        self.service.requests.clear()
        self.service.faults.add(*faults)
        started = time.monotonic()
        try:
            commands = [self._train(record)]
            if scenario == CANCEL:
                commands = [("cancel", RUN), ("cluster", "delete", *self.place(record))]
            for arguments in commands:
                record.ended.append(self.run(record, *arguments))
                if record.ended[-1].code:
                    break
        except subprocess.TimeoutExpired as expired:
            said = (expired.stdout or b"", expired.stderr or b"")
            record.timed_out = b"".join(said).decode(errors="replace") or " "
        record.seconds = time.monotonic() - started
        self.service.faults.clear()
        record.exchanges = self.service.requests.exchanges()
        record.runs = self.new_runs()
        return record

    def run(self, record: ScenarioRecord, *arguments: str) -> Ended:
        """Run a command in the scenario's folder.

        Raises:
            subprocess.TimeoutExpired: it took longer than `CASE_SECONDS`.
            RuntimeError: the runner is closed.
        """
        environment = {**os.environ, **self.service.environment, "HOME": str(self._user(record))}
        with subprocess.Popen(
            command(*arguments),
            cwd=record.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            self._process = process
            try:
                if self.is_closed:
                    raise RuntimeError("the runner is closed")
                said = process.communicate(timeout=CASE_SECONDS)
            finally:
                process.kill()
        return Ended(process.returncode, *(text.decode(errors="replace") for text in said))

    def close(self) -> None:
        """Kill the running command and start no other."""
        self.is_closed = True
        if self._process is not None:
            self._process.kill()

    def clear(self, record: ScenarioRecord) -> None:
        """Cancel the runs that a scenario left running, and delete its files."""
        for run in self.new_runs():
            self.service.runs.cancel(run.run_id)
            self.service.runs.wait_for(run.run_id, "Completed", "Failed", "Canceled")
        shutil.rmtree(record.home, ignore_errors=True)

    def new_runs(self) -> list[Run]:
        """Return the current scenario's runs, also those never submitted."""
        return [run for run in self.service.runs.all() if run.run_id not in self._before]

    def is_over(self) -> bool:
        """Return whether the scenario's run has ended."""
        runs = self.new_runs()
        return bool(runs) and all(run.is_over for run in runs)

    def kind(self, request: Request) -> Kind:
        """Return a request's kind."""
        return Kind.of(request.method, self.service.server.template(request), request.path)

    def registered(self, model: str) -> list[Json]:
        """Return a model's versions."""
        return [one for one in self.service.handlers.models.all() if one["name"] == model]

    def place(self, record: ScenarioRecord) -> tuple[str, ...]:
        workspace = f"backend.workspace={self.service.home}"
        return ("backend=azure", f"backend.sdk={self.sdk}", workspace, f"backend.cluster={record.cluster}")

    def register_arguments(self, record: ScenarioRecord) -> tuple[str, ...]:
        return (f"register.name={record.model}", "register.min_accuracy=0")

    def _prepare(self, scenario: str) -> ScenarioRecord:
        number = next(self._numbers)
        home = self.folder / f"scenario-{number}"
        home.mkdir(parents=True)
        record = ScenarioRecord(scenario, home, f"cluster{number}", f"faulty-{number}")
        self._before = {run.run_id for run in self.service.runs.all()}
        self.service.faults.clear()
        self.service.clusters.behaviour = Behaviour(full=scenario == CANCEL)
        if scenario == FIRST:
            self._delete_uploads()
        else:  # a first run should have uploaded the data, and may not have
            for name, content in self._deleted_data.items():
                self.service.blobs.put(self.service.tenancy.container, name, content)
            self.service.clusters.add(record.cluster)
        if scenario == CANCEL:
            ended = self.run(record, *self._train(record), "backend.queue_timeout=1")
            if "no node is free" not in ended.err:
                raise RuntimeError(f"the run should have waited for a node:\n{ended.err}")
        return record

    def _delete_uploads(self) -> None:
        blobs, container = self.service.blobs, self.service.tenancy.container
        self.service.handlers.snapshots.forget_the_latest()
        for name in blobs.names(container, "mnist-cnn-code/"):
            blobs.delete(container, name)
        for name in blobs.names(container, "data-"):
            self._deleted_data[name] = blobs.get(container, name)
            blobs.delete(container, name)

    def _train(self, record: ScenarioRecord) -> tuple[str, ...]:
        return (
            *self.place(record),
            f"backend.experiment={record.cluster if record.scenario == FIRST else 'again'}",
            f"data.dir={self.folder / DATA}",
            "model=compact",
            "train.epochs=1",
            f"run_dir={RUN}",
            *self.register_arguments(record),
        )

    def _user(self, record: ScenarioRecord) -> Path:
        """Return the user's home, where the SDK caches uploads; a first run has a fresh one."""
        user = record.home / "user" if record.scenario == FIRST else self.folder / "user"
        user.mkdir(exist_ok=True)
        return user


def write_few_images(folder: Path) -> None:
    """Write the first images of MNIST as a small data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in IMAGES.items():
        for name, rank in (("images-idx3", 3), ("labels-idx1", 1)):
            source = Path(next(iter(data.__path__))) / "mnist" / f"{part}-{name}-ubyte.gz"
            kept = read_idx(source, rank)[:count]
            content = idx_header((0, 0, 8, rank), kept.shape) + kept.tobytes()
            (folder / source.name).write_bytes(gzip.compress(content, mtime=0))
