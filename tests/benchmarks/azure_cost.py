"""What `backend=azure` adds over `backend=local`: the client's time, requests and bytes, step by step.

In each round, a fresh loopback service gets a first and a second run of the same small job. Then the job runs
locally. The command is a separate process. The service's proxy records its requests, so that any version of
the package can be measured (set PYTHONPATH). The table shows the fastest round of each kind of run. The
service answers within milliseconds: a real network adds a round trip to each request of a sequence.
`start-up` measures the SDK's imports alone.

Needs the extra `azure` and the loopback service's packages, which the environment of `tox -e py` has.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .machine import command, environment
from .machine import run as run_process
from .report import number, print_progress, table

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.faults import Fault
    from loopback.messages import Request, Response

OPTIONS = {
    "overrides": {"nargs": "*", "metavar": "KEY=VALUE", "help": "settings that change the small job"},
    "--rounds": number(3, "how often everything is measured"),
}
JOB = ("data.train_limit=1000", "data.test_limit=500", "train.epochs=2", "register.min_accuracy=0")
IMPORT, LOGIN, UPLOAD, CLUSTER, SNAPSHOT = "client import", "login", "upload", "cluster", "snapshot"
SUBMIT, RUN, POLLING, DOWNLOAD = "submit", "(the run)", "polling", "download"
REGISTER, COSTS, EXIT = "register", "cost report", "exit"
STEPS = (IMPORT, LOGIN, UPLOAD, CLUSTER, SNAPSHOT, SUBMIT, RUN, POLLING, DOWNLOAD, REGISTER, COSTS, EXIT)
IMPORT_PAUSE = 0.25
"""Before the submission, a pause of this many seconds between two requests counts as imports."""
PHASES = (
    (LOGIN, SUBMIT, r"POST .*/snapshotrun$"),
    (POLLING, DOWNLOAD, r"GET .*/artifacts/ExperimentRun/[^/]+$"),
    (DOWNLOAD, REGISTER, r"GET .*/modelmanagement/.*/models$"),
    (REGISTER, COSTS, r"GET .*/computes/[^/]+$"),
    (COSTS, EXIT, r"(?!)"),
)
"""A command's phases: the step of most requests, and the step and the pattern of the request that ends it."""
OTHER_STEPS = {
    LOGIN: (
        (CLUSTER, r"/computes/"),
        (UPLOAD, r"/datastore/|blob\.core\.[^/]+/azureml-blobstore"),
        (SNAPSHOT, r"/content/|blob\.core\.[^/]+/snapshots/"),
    ),
    POLLING: ((SUBMIT, r"^PATCH"),),
}
"""Other steps of a phase, which may run in parallel with it, each with the pattern of its requests."""


@dataclasses.dataclass(frozen=True)
class TimedRequest:
    """One request of the client: its arrival and answer in seconds, and its bytes each way."""

    target: str
    start: float
    end: float
    bytes_up: int
    bytes_down: int


@dataclasses.dataclass
class StepCost:
    seconds: float = 0.0
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


def record(service: AzureService) -> list[TimedRequest]:
    """Return a list that grows with each request of the service's clients, but not of its nodes."""
    requests: list[TimedRequest] = []
    answer = service.proxy.answerer

    def answer_and_record(request: Request) -> tuple[Response | None, Fault | None]:
        start = time.monotonic()
        response, fault = answer(request)
        down = len(response.body) if response is not None else 0
        target = f"{request.method} {request.host}{request.path}"
        requests.append(TimedRequest(target, start, time.monotonic(), len(request.body), down))
        return response, fault

    service.proxy.answerer = answer_and_record
    return requests


@dataclasses.dataclass(frozen=True)
class Costs:
    """The fastest first run and the fastest second one, step by step, and the same job run locally."""

    by_kind: dict[str, dict[str, StepCost]]
    local_seconds: float

    def text(self) -> str:
        """Return a row for each step, then their sums."""
        heads = ["seconds", *(head for kind in self.by_kind for head in (kind, "requests", "sent", "got"))]
        rows = [[step, *self._cells((step,))] for step in STEPS]
        rows.append(["all", *self._cells(STEPS)])
        rows.append(["all but the run", *self._cells([step for step in STEPS if step != RUN])])
        more = {kind: seconds(cost) - self.local_seconds for kind, cost in self.by_kind.items()}
        added = ", ".join(f"{difference:.2f} s more for a {kind} run" for kind, difference in more.items())
        return (
            f"what the cluster adds, by step (bytes sent and got)\n{table(heads, rows)}\n"
            f"the same job with backend=local: {self.local_seconds:.2f} s; {added}"
        )

    def as_mapping(self) -> dict[str, Any]:
        """Return every figure, ready for JSON."""
        return dataclasses.asdict(self)

    def _cells(self, steps: Sequence[str]) -> list[str]:
        cells = []
        for cost in self.by_kind.values():
            parts = [cost[step] for step in steps]
            cells.append(f"{sum(part.seconds for part in parts):.2f}")
            counts = ("requests", "bytes_up", "bytes_down")
            cells += [f"{sum(getattr(part, name) for part in parts):,}" for name in counts]
        return cells


def seconds(cost: dict[str, StepCost], without: str = "") -> float:
    """Return the seconds of all steps, except one."""
    return sum(part.seconds for step, part in cost.items() if step != without)


def run(arguments: argparse.Namespace) -> list[Costs]:
    """Measure all rounds."""
    sys.path.append(str(Path(__file__).parent.parent / "azure"))  # the folder of `loopback`
    from loopback import AzureService

    overrides = (*JOB, *arguments.overrides)
    costs: dict[str, list[dict[str, StepCost]]] = {"first": [], "second": []}
    local: list[float] = []
    for round_number in range(1, arguments.rounds + 1):
        with tempfile.TemporaryDirectory() as folder, AzureService(Path(folder)) as service:
            requests = record(service)
            for of_kind in costs.values():
                requests.clear()
                of_kind.append(_measure(service, requests, overrides))
            service.check()
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            run_process(command(*overrides), cwd=folder, timeout=600).check_returncode()
            local.append(time.monotonic() - started)
        print_progress(f"round {round_number}/{arguments.rounds}  local {local[-1]:.4g}")
    best = {kind: min(of_kind, key=lambda cost: seconds(cost, RUN)) for kind, of_kind in costs.items()}
    return [Costs(best, min(local))]


def _measure(
    service: AzureService, requests: list[TimedRequest], overrides: tuple[str, ...]
) -> dict[str, StepCost]:
    """Run the command with `backend=azure`; return the cost of its steps."""
    before = {run.run_id for run in service.runs.all()}
    run_ended: list[float] = []

    def record_the_end() -> None:
        while not (new := {run.run_id for run in service.runs.all()} - before):
            time.sleep(0.02)
        service.runs.wait_for(new.pop(), "Completed", "Failed", "Canceled")
        run_ended.append(time.monotonic())

    threading.Thread(target=record_the_end, daemon=True).start()
    started = time.monotonic()
    changed = {**environment(), **service.environment}
    words = command("backend=azure", *overrides)
    ended = run_process(words, cwd=service.home, env=changed, timeout=600)
    end = time.monotonic()
    if ended.returncode:
        sys.stderr.write(ended.stderr)
        ended.check_returncode()
    return _cost_by_step(sorted(requests, key=lambda one: one.end), started, run_ended[0], end)


def _cost_by_step(
    requests: list[TimedRequest], started: float, run_ended: float, end: float
) -> dict[str, StepCost]:
    """Divide the command's time, from `started` to `end`, between its steps.

    The time before an answer belongs to the step of the request. Exceptions: longer pauses before the
    submission are imports, and the time until the run has ended belongs to the run.
    """
    cost = {step: StepCost() for step in STEPS}
    steps = list(_steps(requests))
    submitted = next(one.end for one, step in zip(requests, steps, strict=True) if step == SUBMIT)
    times = [started, *(one.end for one in requests)]
    for (before, now), one, step in zip(itertools.pairwise(times), requests, steps, strict=True):
        part = cost[step]
        part.requests += 1
        part.bytes_up += one.bytes_up
        part.bytes_down += one.bytes_down
        if one.end <= submitted:
            pause = max(0.0, one.start - before)
            cost[IMPORT if pause >= IMPORT_PAUSE else step].seconds += pause
            part.seconds += now - max(before, one.start)
        else:
            part.seconds += max(0.0, now - max(before, run_ended))
    cost[RUN].seconds = run_ended - submitted
    cost[EXIT].seconds = end - max(times[-1], run_ended)
    return cost


def _steps(requests: list[TimedRequest]) -> Iterable[str]:
    """Yield the step of each request."""
    phases = iter(PHASES)
    step, last_step, last_request = next(phases)
    for one in requests:
        if re.search(last_request, one.target):
            yield last_step
            step, last_step, last_request = next(phases)
        else:
            others = OTHER_STEPS.get(step, ())
            yield next((other for other, pattern in others if re.search(pattern, one.target)), step)
