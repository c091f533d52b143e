"""Every request of a run on the cluster fails, in every way, one at a time.

A run in which nothing fails is recorded first, on the loopback service; each kind of request (method and
path template, the node's too) then fails at its first and at its last occurrence in each of seven ways. Each
case must end in the right result or in a worded error with exit code 4, in a bounded time, with no run that
goes on unnamed, no second run, no second version of the model, no cluster written over, no false success,
no traceback and no secret printed. An answer that is 30 seconds late must not be an error.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import queue
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.report import table
from loopback import AzureService

import mnist_cnn
from mnist_cnn import backends
from mnist_cnn.config import CONF_DIR

from . import kinds, ledger, outcome
from .scenario import SCENARIOS, Stage

WORKERS = 5
"""More than there are processors: most of a case's time is waiting."""
RECORDED = "recorded"
ATTEMPTS = 3
"""How often a case is tried whose request did not come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this matrix asks."""
    ledger.add_arguments(parser)
    parser.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help="cases at a time (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="record the runs, print the cases, run none")


def run(chosen: argparse.Namespace) -> int:
    """Run the matrix; print its tables. Returns 1 where a promise was broken."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # and so clean up
    started = time.monotonic()
    code = ledger.digest(*(Path(of).parent for of in (mnist_cnn.__file__, backends.__file__)), CONF_DIR)
    finished = ledger.Ledger(chosen.ledger, code, any_code=chosen.any_code)
    with stages(chosen.workers) as on:
        weights, observed = recorded(on[:2], finished)
        cases = {str(case): case for case in kinds.cases(observed)}
        asked = [name for name in cases if ledger.is_asked(name, chosen)]
        if chosen.list:
            print("\n".join(asked))
            return 0
        left = [cases[name] for name in asked if name not in finished]
        left.sort(key=lambda case: zlib.crc32(str(case).encode()))  # so that one waits while another works
        say(f"{len(cases)} cases, {len(asked)} of them asked for, {len(left)} left to run")
        run_all(on, left, weights, finished)
    entries = finished.entries(asked)
    print(report([cases[entry.case] for entry in entries], entries))
    others = sum(entry.code != code for entry in entries)
    if others:
        print(f"{others} cases were run with other code")
    print(f"{len(entries)} cases; this start took {(time.monotonic() - started) / 60:.0f} minutes")
    return int(any(entry.broken for entry in entries) or len(entries) < len(asked))


@contextmanager
def stages(count: int) -> Iterator[list[Stage]]:
    """Start services, each with a stage."""
    with ExitStack() as started:
        made = []
        for _ in range(count):
            folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
            service = started.enter_context(AzureService(folder / "service"))
            made.append(Stage(service, folder / "stage"))
            started.callback(made[-1].close)
        yield made


def recorded(on: Sequence[Stage], finished: ledger.Ledger) -> tuple[str, dict[str, list[kinds.Observed]]]:
    """Return the weights that a run ends in, and the requests of each scenario, with nothing failing.

    They are played for that on several stages at once, unless the ledger has it all.
    """
    known = finished.note(RECORDED)
    if known is None:
        say("recording runs in which nothing fails")
        weights, observed = record(on)
        as_json = {name: [one.as_json() for one in runs] for name, runs in observed.items()}
        finished.take_down(RECORDED, {"weights": weights, "observed": as_json})
        return weights, observed
    observed = {
        name: [kinds.Observed.from_json(one) for one in runs] for name, runs in known["observed"].items()
    }
    return known["weights"], observed


def record(on: Sequence[Stage]) -> tuple[str, dict[str, list[kinds.Observed]]]:
    """Play every scenario with nothing failing, on several stages at once.

    Raises:
        RuntimeError: a promise is broken where nothing fails.
    """
    observed: dict[str, list[kinds.Observed]] = {scenario: [] for scenario in SCENARIOS}
    weights: list[str] = []

    def record_all(stage: Stage) -> None:
        for scenario in SCENARIOS:
            seen, found = record_one(stage, scenario)
            observed[scenario].append(seen)
            weights.extend(found)

    on_each(on, record_all)
    if len(set(weights)) != 1:
        raise RuntimeError(f"runs in which nothing fails end in {len(set(weights))} kinds of weights")
    return weights[0], observed


def record_one(stage: Stage, scenario: str) -> tuple[kinds.Observed, list[str]]:
    """Play a scenario with nothing failing; return its requests, and the weights that it ended in."""
    watch = kinds.Watch(requests=stage)
    played = stage.play(scenario, watch)
    result = played.result
    found = [result.weights_sha256] if result is not None else []
    said = outcome.judge(stage, played, *(found or [""]))
    stage.clear(played)
    if said.broken:
        raise RuntimeError(f"nothing fails, and yet {'; '.join(said.broken)}:\n{played.printed()}")
    return kinds.Observed(list(watch.seen), stage.refused_at_first(played)), found


def run_all(on: Sequence[Stage], cases: Iterable[kinds.Case], weights: str, finished: ledger.Ledger) -> None:
    """Run cases, on each stage one at a time."""
    waiting: queue.SimpleQueue[kinds.Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    is_over = threading.Event()

    def work(stage: Stage) -> None:
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            entry = run_case(stage, case, weights)
            if is_over.is_set():
                return
            finished.add(entry)
            broken = f"  {'; '.join(entry.broken)}" if entry.broken else ""
            say(f"{entry.seconds:4.0f} s  {entry.outcome:<20}  {case}{broken}  ({waiting.qsize()} left)")

    try:
        on_each(on, work)
    finally:  # what ends with this process, as by Ctrl-C, is not finished
        is_over.set()


def run_case(stage: Stage, case: kinds.Case, weights: str) -> ledger.Entry:
    """Run one case; where its request did not come, again, for the last one that there was this time."""
    strike = case.strike
    for _attempt in range(ATTEMPTS):
        played = stage.play(case.scenario, strike.fault(case.way, stage))
        said = outcome.judge(stage, played, weights, must_succeed=case.way == "delay")
        words = played.printed()[-3000:] if said.broken else ""
        count = stage.count(played, strike.kind)
        stage.clear(played)
        if said.outcome != outcome.NOT_STRUCK:
            break
        if not strike.is_late and count:  # as often as time allows, which is less often on a faster machine
            strike = dataclasses.replace(strike, occurrence=count)
    return ledger.Entry(str(case), said.outcome, tuple(said.broken), round(played.seconds, 1), said=words)


def report(cases: Sequence[kinds.Case], entries: Sequence[ledger.Entry]) -> str:
    """Return how many cases ended in what: by way, by kind of request, and each that needs a word."""
    heads = ["cases", *outcome.OUTCOMES]
    parts = []
    for title, named in (
        ("by way", [case.way for case in cases]),
        ("by kind of request", [str(case.strike.kind) for case in cases]),
    ):
        counted: dict[str, collections.Counter[str]] = {}
        for name, entry in zip(named, entries, strict=True):
            counted.setdefault(name, collections.Counter())[entry.outcome] += 1
        counted["all"] = sum(counted.values(), collections.Counter())
        rows = [
            [name, str(count.total()), *(str(count[kind] or "") for kind in outcome.OUTCOMES)]
            for name, count in counted.items()
        ]
        parts.append(table([title, *heads], rows))
    shown = [entry for entry in entries if entry.outcome in (outcome.NOT_STRUCK, outcome.BROKEN)]
    parts += [f"{entry.outcome}: {entry.case}: {'; '.join(entry.broken)}".rstrip(": ") for entry in shown]
    slowest = max((entry.seconds for entry in entries), default=0)
    parts.append(f"{outcome.ABOUT}\nthe longest case took {slowest:.0f} seconds")
    return "\n\n".join(parts)


def on_each(stages_: Sequence[Stage], act: Callable[[Stage], None]) -> None:
    """Do this with all stages at the same time. Raises the first exception, when all have ended."""
    errors: list[BaseException] = []

    def do(stage: Stage) -> None:
        try:
            act(stage)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            errors.append(error)

    threads = [threading.Thread(target=do, args=(stage,), daemon=True) for stage in stages_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def say(line: str) -> None:
    """Tell on stderr how far it is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
