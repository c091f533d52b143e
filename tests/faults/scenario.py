"""A loopback service on which a scenario is played: the product's own commands, in fresh names each time."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import itertools
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import Ended, command
from loopback import Behaviour

from mnist_cnn import run_folder

from .kinds import Kind

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.faults import Fault
    from loopback.history import Run
    from loopback.messages import Json, Request
    from loopback.recording import Exchange

    from mnist_cnn.result import Result

CASE_SECONDS = 480.0
"""How long a command may take, whichever request fails. On the node the SDK tries for up to 5 minutes."""
IMAGES = {"train": 1000, "t10k": 500}
RUN = "run"
FIRST, AGAIN, CANCEL = "first run", "next run", "cancel"
SCENARIOS = (AGAIN, FIRST, CANCEL)
"""next run: data, code and experiment are there, and a cluster that is not as configured; first run: nothing
is; cancel: a run that waits for a node is cancelled and its cluster deleted. The cheapest is the first."""
MODEL = "faulty"


@dataclasses.dataclass
class Played:
    """A scenario as it was played: how its commands ended and what the service has of them."""

    scenario: str
    home: Path
    cluster: str
    model: str
    ended: list[Ended] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    timed_out: str = ""
    exchanges: list[Exchange] = dataclasses.field(default_factory=list)
    runs: list[Run] = dataclasses.field(default_factory=list)
    cluster_before: Json | None = None

    @property
    def folder(self) -> Path:
        return self.home / RUN

    @property
    def result(self) -> Result | None:
        return run_folder.read_result(self.folder)

    def printed(self) -> str:
        """Return all that was printed."""
        return "".join(f"{ended.out}{ended.err}" for ended in self.ended) + self.timed_out


class Stage:
    """Plays scenarios on one service, one after the other."""

    def __init__(self, service: AzureService, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self._numbers = itertools.count(1)
        self._is_warm = False
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._data_sent: dict[str, bytes] = {}
        self._before: set[str] = set()
        self._data = few_images(folder / "images")

    def play(self, scenario: str, *faults: Fault) -> Played:
        """Play a scenario while these faults are there."""
        if not self._is_warm and scenario != FIRST:
            self._is_warm = True
            self.clear(self.play(AGAIN))
        played = self._prepared(scenario)
        self.service.requests.clear()
        self.service.faults.add(*faults)
        started = time.monotonic()
        try:
            for arguments in self._commands(played):
                played.ended.append(self.run(played, *arguments))
                if played.ended[-1].code:
                    break
        except subprocess.TimeoutExpired as expired:
            said = (expired.stdout or b"", expired.stderr or b"")
            played.timed_out = b"".join(said).decode(errors="replace") or " "
        played.seconds = time.monotonic() - started
        self.service.faults.clear()
        played.exchanges = self.service.requests.exchanges()
        played.runs = self.new_runs()
        return played

    def run(self, played: Played, *arguments: str) -> Ended:
        """Run a command where the scenario is played.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `CASE_SECONDS`.
            RuntimeError: the stage is closed.
        """
        if self._is_closed:
            raise RuntimeError("the stage is closed")
        environment = {**os.environ, **self.service.environment, "HOME": str(self._user(played))}
        with subprocess.Popen(
            command(*arguments),
            cwd=played.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            self._process = process
            try:
                said = process.communicate(timeout=CASE_SECONDS)
            finally:
                process.kill()
        return Ended(process.returncode, *(text.decode(errors="replace") for text in said))

    def close(self) -> None:
        """End the command that is being played; no other is begun."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()

    def clear(self, played: Played) -> None:
        """End what a scenario has left under way, and forget its files."""
        for run in self.new_runs():
            self.service.runs.cancel(run.run_id)
            self.service.runs.wait_for(run.run_id, "Completed", "Failed", "Canceled")
        shutil.rmtree(played.home, ignore_errors=True)

    def new_runs(self) -> list[Run]:
        """Return the runs of the scenario that is played, those too that were never submitted."""
        return [run for run in self.service.runs.all() if run.run_id not in self._before]

    def is_over(self) -> bool:
        """Tell whether the scenario's run has ended."""
        runs = self.new_runs()
        return bool(runs) and all(run.is_over for run in runs)

    def kind(self, request: Request) -> Kind:
        """Return the kind of a request as it comes in."""
        return Kind.of(request.method, self.service.server.template(request), request.path)

    def count(self, played: Played, kind: Kind) -> int:
        """Return how many requests of a kind there were."""
        made = (Kind.of(e.method, e.template, e.path) for e in played.exchanges)
        return sum(one == kind for one in made)

    def refused_at_first(self, played: Played) -> list[Kind]:
        """Return the kinds whose first request was refused: it asked for what is not there yet."""
        first: dict[Kind, int] = {}
        for exchange in played.exchanges:
            first.setdefault(Kind.of(exchange.method, exchange.template, exchange.path), exchange.status)
        return [kind for kind, status in first.items() if status >= 400]

    def registered(self, model: str) -> list[Json]:
        """Return the versions of a model."""
        return [one for one in self.service.handlers.models.all() if one["name"] == model]

    def register_arguments(self, played: Played) -> tuple[str, ...]:
        return (f"register.name={played.model}", "register.min_accuracy=0")

    def _prepared(self, scenario: str) -> Played:
        number = next(self._numbers)
        home = self.folder / f"played-{number}"
        home.mkdir(parents=True)
        played = Played(scenario, home, f"cluster{number}", f"{MODEL}-{number}")
        self._before = {run.run_id for run in self.service.runs.all()}
        self.service.faults.clear()
        self.service.clusters.behaviour = Behaviour(full=scenario == CANCEL)
        if scenario == FIRST:
            self._forget_what_was_sent()
        else:
            self._send_again()
            cluster = self.service.clusters.add(played.cluster)
            played.cluster_before = copy.deepcopy(cluster.body)
        if scenario == CANCEL:
            self._submit_what_no_node_takes(played)
        return played

    def _forget_what_was_sent(self) -> None:
        blobs, container = self.service.blobs, self.service.tenancy.container
        self.service.handlers.snapshots.forget_the_latest()
        for blob in blobs.listing(container, "data-"):
            self._data_sent[blob.name] = blobs.get(container, blob.name)
            blobs.delete(container, blob.name)

    def _send_again(self) -> None:
        """Put the data there that a first run had to send, and has perhaps not."""
        for name, content in self._data_sent.items():
            self.service.blobs.put(self.service.tenancy.container, name, content)

    def _submit_what_no_node_takes(self, played: Played) -> None:
        ended = self.run(played, *self._train(played), "backend.queue_timeout=1")
        if "no node took it" not in ended.err:
            raise RuntimeError(f"a run was to wait for a node:\n{ended.err}")

    def _commands(self, played: Played) -> list[tuple[str, ...]]:
        place = (f"backend.workspace={self.service.home}", f"backend.cluster={played.cluster}")
        if played.scenario == CANCEL:
            return [("cancel", RUN), ("cluster", "delete", "backend=azure", *place)]
        return [self._train(played)]

    def _train(self, played: Played) -> tuple[str, ...]:
        of_its_own = played.scenario == FIRST
        return (
            "backend=azure",
            f"backend.workspace={self.service.home}",
            f"backend.cluster={played.cluster}",
            f"backend.experiment={played.cluster if of_its_own else 'again'}",
            f"data.dir={self._data}",
            "model=compact",
            "train.epochs=1",
            f"run_dir={RUN}",
            *self.register_arguments(played),
        )

    def _user(self, played: Played) -> Path:
        """Return the home of the user, where the SDK keeps what it has sent; a first run has a fresh one."""
        user = played.home / "user" if played.scenario == FIRST else self.folder / "user"
        user.mkdir(exist_ok=True)
        return user


def few_images(folder: Path) -> Path:
    """Write the first images of MNIST as a data set of its own; return the folder."""
    from mnist_cnn import data

    folder.mkdir(parents=True, exist_ok=True)
    for part, count in IMAGES.items():
        for name, header in (("images-idx3", 16), ("labels-idx1", 8)):
            source = Path(next(iter(data.__path__))) / "mnist" / f"{part}-{name}-ubyte.gz"
            content = gzip.decompress(source.read_bytes())
            each = (len(content) - header) // struct.unpack(">I", content[4:8])[0]
            kept = content[:4] + struct.pack(">I", count) + content[8 : header + count * each]
            (folder / source.name).write_bytes(gzip.compress(kept, mtime=0))
    return folder
