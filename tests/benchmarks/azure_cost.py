"""What `backend=azure` adds over `backend=local`: the client's time, requests and bytes, step by step.

In each round a fresh loopback service sees a first run and a second one of the same small job; then the
same job runs here. The command is a process of its own, seen from outside: the service's proxy tells when
the client asked for what, so that any version of the package can be measured (PYTHONPATH names another). Of
each kind of run the fastest round is shown. The service answers within milliseconds, as no real one does:
the seconds are the client's own, and with a real network each request in a row adds its way there and back.

It needs the extra `azure` and what the loopback service needs, as the environment of `tox -e py` has them.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .machine import command, environment
from .report import say, table

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.faults import Fault
    from loopback.messages import Request, Response

ROUNDS = 3
ROUND = "how often all of it is done (default: %(default)s)"
JOB = ("data.train_limit=1000", "data.test_limit=500", "train.epochs=2", "register.min_accuracy=0")
IMPORT, LOGIN, UPLOAD, CLUSTER, SNAPSHOT = "client import", "login", "upload", "cluster", "snapshot"
SUBMIT, RUN, POLLING, DOWNLOAD = "submit", "(the run)", "polling", "download"
REGISTER, AFTERMATH, EXIT = "register", "cluster's cost", "exit"
STEPS = (IMPORT, LOGIN, UPLOAD, CLUSTER, SNAPSHOT, SUBMIT, RUN, POLLING, DOWNLOAD, REGISTER, AFTERMATH, EXIT)
PAUSE = 0.25
"""Seconds without a request, before the submission, from which on they count as imports."""
PHASES = (
    ("before", SUBMIT, r"POST .*/snapshotrun$"),
    ("following", DOWNLOAD, r"GET .*/artifacts/ExperimentRun/[^/]+$"),
    ("bringing", REGISTER, r"GET .*/modelmanagement/.*/models$"),
    ("registering", AFTERMATH, r"GET .*/computes/[^/]+$"),
    ("ending", EXIT, r"(?!)"),
)
"""The phases of a command in order, each with the request that ends it and the step of that request."""
BEFORE = (
    (CLUSTER, r"/computes/"),
    (UPLOAD, r"/datastore/|blob\.core\.[^/]+/azureml-blobstore"),
    (SNAPSHOT, r"/content/|blob\.core\.[^/]+/snapshots/"),
    (LOGIN, ""),
)
"""The steps before the submission, which may be made side by side, each with the requests that it makes."""
IMPORTS = """
import time
start = time.perf_counter()
import azureml.core
core = time.perf_counter()
import azureml.train.estimator
print(core - start, time.perf_counter() - core)
"""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request of the client: when it was there and when it was answered, in seconds; bytes each way."""

    what: str
    start: float
    end: float
    bytes_up: int
    bytes_down: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """A command's wall time in seconds, all and by step, and the requests and bytes of each step."""

    seconds: float
    by_step: dict[str, float]
    requests: dict[str, int]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]

    @property
    def run_seconds(self) -> float:
        """How long the run itself took, from its submission to its end, in which the client only waits."""
        return self.by_step[RUN]


class Watch:
    """What the clients of a service ask it for, and when; not what its nodes do."""

    def __init__(self, service: AzureService) -> None:
        self.asked: list[Asked] = []
        self._answer = service.proxy.answerer
        service.proxy.answerer = self

    def __call__(self, request: Request) -> tuple[Response | None, Fault | None]:
        start = time.monotonic()
        response, fault = self._answer(request)
        down = len(response.body) if response is not None else 0
        what = f"{request.method} {request.host}{request.path}"
        self.asked.append(Asked(what, start, time.monotonic(), len(request.body), down))
        return response, fault


@dataclasses.dataclass(frozen=True)
class Costs:
    """The fastest first run and the fastest second one, beside what runs here, in seconds."""

    by_kind: dict[str, Cost]
    local_seconds: float
    import_seconds: dict[str, float]

    def text(self) -> str:
        """Return a row for each step, then their sums."""
        heads = ["seconds", *(head for kind in self.by_kind for head in (kind, "requests", "sent", "got"))]
        rows = [[step, *self._cells((step,))] for step in STEPS]
        rows.append(["all", *self._cells(STEPS)])
        rows.append(["all but the run", *self._cells([step for step in STEPS if step != RUN])])
        alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.import_seconds.items())
        over = ", ".join(
            f"{cost.seconds - self.local_seconds:.2f} s more by a {kind} run"
            for kind, cost in self.by_kind.items()
        )
        return (
            f"what the cluster adds, by step (bytes sent and got)\n{table(heads, rows)}\n"
            f"the same job with backend=local: {self.local_seconds:.2f} s; {over}\nimports alone: {alone}"
        )

    def as_mapping(self) -> dict[str, Any]:
        """Return every figure."""
        return dataclasses.asdict(self)

    def _cells(self, steps: Sequence[str]) -> list[str]:
        cells = []
        for cost in self.by_kind.values():
            cells.append(f"{sum(cost.by_step.get(step, 0) for step in steps):.2f}")
            counts = (cost.requests, cost.bytes_up, cost.bytes_down)
            cells += [f"{sum(counted.get(step, 0) for step in steps):,}" for counted in counts]
        return cells


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark asks besides."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the small job")


def run(arguments: argparse.Namespace) -> list[Costs]:
    """Run the rounds."""
    sys.path.append(str(Path(__file__).parent.parent / "azure"))  # where `loopback` is
    from loopback import AzureService

    overrides = (*JOB, *arguments.overrides)
    costs: dict[str, list[Cost]] = {"first": [], "second": []}
    local, imports = list[float](), list[list[float]]()
    for number in range(1, arguments.rounds + 1):
        with tempfile.TemporaryDirectory() as folder, AzureService(Path(folder)) as service:
            watch = Watch(service)
            for of_kind in costs.values():
                of_kind.append(_cost(service, watch, overrides))
            service.check()
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            _run(overrides, Path(folder), {}).check_returncode()
            local.append(time.monotonic() - started)
        printed = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
        imports.append([float(word) for word in printed.stdout.split()])
        say(f"round {number}/{arguments.rounds}  local {local[-1]:.4g}")
    best = {kind: min(of, key=lambda cost: cost.seconds - cost.run_seconds) for kind, of in costs.items()}
    least = [min(column) for column in zip(*imports, strict=True)]
    return [Costs(best, min(local), dict(zip(("azureml.core", "its Estimator"), least, strict=True)))]


def _cost(service: AzureService, watch: Watch, overrides: tuple[str, ...]) -> Cost:
    """Run the command with `backend=azure`, and tell what it cost."""
    watch.asked.clear()
    before = {run.run_id for run in service.runs.all()}
    over: list[float] = []

    def note_the_end() -> None:
        while not (new := {run.run_id for run in service.runs.all()} - before):
            time.sleep(0.02)
        service.runs.wait_for(new.pop(), "Completed", "Failed", "Canceled")
        over.append(time.monotonic())

    threading.Thread(target=note_the_end, daemon=True).start()
    started = time.monotonic()
    ended = _run(("backend=azure", *overrides), service.home, service.environment)
    end = time.monotonic()
    if ended.returncode:
        sys.stderr.write(ended.stderr)
        ended.check_returncode()
    return _divided(sorted(watch.asked, key=lambda asked: asked.end), started, over[0], end)


def _divided(asked: list[Asked], started: float, over: float, end: float) -> Cost:
    """Divide a command's time, from its start to its end, between its steps.

    What passes before an answer belongs to the step that asked, but for longer pauses before the submission,
    which are imports, and for what passes while the run itself is under way.
    """
    steps = list(_steps(asked))
    submitted = next(one.end for one, step in zip(asked, steps, strict=True) if step == SUBMIT)
    by_step = dict.fromkeys(STEPS, 0.0)
    times = [started, *(one.end for one in asked)]
    for (before, now), one, step in zip(itertools.pairwise(times), asked, steps, strict=True):
        if one.end <= submitted:
            pause = max(0.0, one.start - before)
            by_step[IMPORT if pause >= PAUSE else step] += pause
            by_step[step] += now - max(before, one.start)
        else:
            by_step[step] += max(0.0, now - max(before, over))
    by_step[RUN] = over - submitted
    by_step[EXIT] = end - max(times[-1], over)
    return Cost(
        end - started,
        by_step,
        dict(collections.Counter(steps)),
        dict(_sums(steps, [one.bytes_up for one in asked])),
        dict(_sums(steps, [one.bytes_down for one in asked])),
    )


def _steps(asked: list[Asked]) -> list[str]:
    """Return the step of each request."""
    phases = iter(PHASES)
    name, next_step, last = next(phases)
    steps = []
    for one in asked:
        if re.search(last, one.what):
            steps.append(next_step)
            name, next_step, last = next(phases)
        elif name == "before":
            steps.append(next(step for step, pattern in BEFORE if re.search(pattern, one.what)))
        elif name == "following":
            steps.append(SUBMIT if one.what.startswith("PATCH") else POLLING)
        else:
            steps.append({"bringing": DOWNLOAD, "registering": REGISTER, "ending": AFTERMATH}[name])
    return steps


def _sums(steps: list[str], numbers: list[int]) -> dict[str, int]:
    total = collections.Counter[str]()
    for step, number in zip(steps, numbers, strict=True):
        total[step] += number
    return total


def _run(overrides: tuple[str, ...], cwd: Path, changed: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*overrides),
        cwd=cwd,
        env={**environment(), **changed},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
