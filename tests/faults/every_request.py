"""Makes every request of a run on the cluster fail, in every way, one at a time.

First, a run without faults is recorded on the loopback service. Then each kind of request (method and path
template, including the node's) fails at its first and at its last occurrence in each of seven ways. Each case
must end in bounded time, in the right result or in an error message with exit code 4. The message names a run
that is still running. There is no second run, no second version of the model, no overwritten cluster, no
false success, no traceback and no printed secret. An answer that is 30 seconds late must not be an error.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import queue
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from benchmarks.report import print_progress, table
from loopback import AzureService

import mnist_cnn
from mnist_cnn import backends
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.config import CONF_DIR

from . import kinds, ledger, outcome
from .scenario import SCENARIOS, ScenarioRunner

WORKERS = 5
"""More than there are CPUs, because a case mostly waits."""
ATTEMPTS = 3
"""Attempts at a case whose request does not come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this matrix's arguments."""
    ledger.add_arguments(parser)
    parser.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help="cases in parallel (default: %(default)s)"
    )
    parser.add_argument(
        "--sdk", type=Sdk, choices=Sdk, default=Sdk.v1, help="the SDK that runs (default: %(default)s)"
    )
    parser.add_argument(
        "--list", action="store_true", help="record the runs and print the cases, but run none"
    )


def run(chosen: argparse.Namespace) -> int:
    """Run the matrix and print its tables; return 1 if a promise was broken."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # SystemExit cleans up
    started = time.monotonic()
    code = ledger.digest(*(Path(of).parent for of in (mnist_cnn.__file__, backends.__file__)), CONF_DIR)
    code = f"{chosen.sdk} {code}"
    finished = ledger.Ledger(chosen.ledger, code, any_code=chosen.any_code)
    with start_runners(chosen.workers, chosen.sdk) as runners:
        recording = load_or_record(runners[:2], finished)
        cases = {str(case): case for case in kinds.cases(recording.observed)}
        asked = [name for name in cases if ledger.is_selected(name, chosen)]
        if chosen.list:
            print("\n".join(asked))
            return 0
        left = [cases[name] for name in asked if name not in finished]
        left.sort(key=lambda case: zlib.crc32(str(case).encode()))  # mixes waiting and computing cases
        print_progress(f"{len(cases)} cases, {len(asked)} selected, {len(left)} left to run")
        run_all(runners, left, recording.weights, finished)
    entries = finished.entries(asked)
    print(report([cases[entry.case] for entry in entries], entries))
    others = sum(entry.code != code for entry in entries)
    if others:
        print(f"{others} cases were run with different code")
    print(f"{len(entries)} cases; this session took {(time.monotonic() - started) / 60:.0f} minutes")
    return int(any(entry.broken for entry in entries) or len(entries) < len(asked))


@contextmanager
def start_runners(count: int, sdk: Sdk) -> Iterator[list[ScenarioRunner]]:
    """Start services, each with its scenario runner."""
    with ExitStack() as started:
        made = []
        for _ in range(count):
            folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
            service = started.enter_context(AzureService(folder / "service"))
            made.append(ScenarioRunner(service, folder / "runner", sdk))
            started.callback(made[-1].close)
        yield made


@dataclasses.dataclass(frozen=True)
class Recording:
    """The final weights and each scenario's requests, without faults."""

    weights: str
    observed: dict[str, list[kinds.Observed]]


def load_or_record(runners: Sequence[ScenarioRunner], finished: ledger.Ledger) -> Recording:
    """Return the recording in the ledger; make it, on several runners at once, if there is none."""
    if finished.recorded is None:
        print_progress("recording runs without faults")
        finished.record(msgspec.to_builtins(record_scenarios(runners)))
    return msgspec.convert(finished.recorded, Recording)


def record_scenarios(runners: Sequence[ScenarioRunner]) -> Recording:
    """Run every scenario without faults, on several runners at once.

    Raises:
        RuntimeError: a promise is broken without a fault.
    """
    observed: dict[str, list[kinds.Observed]] = {scenario: [] for scenario in SCENARIOS}
    weights: list[str] = []

    def record_all(runner: ScenarioRunner) -> None:
        for scenario in SCENARIOS:
            seen, found = record_scenario(runner, scenario)
            observed[scenario].append(seen)
            weights.extend(found)

    run_on_each(runners, record_all)
    if len(set(weights)) != 1:
        raise RuntimeError(f"runs without faults end in {len(set(weights))} different weights")
    return Recording(weights[0], observed)


def record_scenario(runner: ScenarioRunner, scenario: str) -> tuple[kinds.Observed, list[str]]:
    """Run a scenario without faults; return its requests and the weights of its result, if any."""
    recorder = kinds.RequestRecorder(requests=runner)
    record = runner.run_scenario(scenario, recorder)
    found = [record.result.weights_sha256] if record.result is not None else []
    judged = outcome.judge(runner, record, *(found or [""]))
    runner.clear(record)
    if judged.broken:
        raise RuntimeError(
            f"a promise is broken without a fault: {'; '.join(judged.broken)}:\n{record.printed()}"
        )
    return kinds.Observed(list(recorder.seen), record.refused_at_first()), found


def run_all(
    runners: Sequence[ScenarioRunner], cases: Iterable[kinds.Case], weights: str, finished: ledger.Ledger
) -> None:
    """Run cases, one at a time on each runner."""
    waiting: queue.SimpleQueue[kinds.Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)

    def work(runner: ScenarioRunner) -> None:
        with suppress(queue.Empty):
            while True:
                case = waiting.get_nowait()
                entry = run_case(runner, case, weights)
                if runner.is_closed:  # a case that this process interrupts is not finished
                    return
                finished.add(entry)
                broken = f"  {'; '.join(entry.broken)}" if entry.broken else ""
                print_progress(
                    f"{entry.seconds:4.0f} s  {entry.outcome:<20}  {case}{broken}  ({waiting.qsize()} left)"
                )

    run_on_each(runners, work)


def run_case(runner: ScenarioRunner, case: kinds.Case, weights: str) -> ledger.Entry:
    """Run one case; if its request does not come, repeat it for the last one that came."""
    injected_fault = case.injected_fault
    for _attempt in range(ATTEMPTS):
        fault = kinds.MatchingFault(
            requests=runner,
            injected_fault=injected_fault,
            occurrence=injected_fault.occurrence,
            **kinds.WAYS[case.way],
        )
        record = runner.run_scenario(case.scenario, fault)
        judged = outcome.judge(runner, record, weights, must_succeed=case.way == "delay")
        output = record.printed()[-3000:] if judged.broken else ""
        count = record.kinds.count(injected_fault.kind)
        runner.clear(record)
        if judged.outcome != outcome.NOT_INJECTED:
            break
        if not injected_fault.is_late and count:  # a faster machine polls less often
            injected_fault = dataclasses.replace(injected_fault, occurrence=count)
    return ledger.Entry(
        str(case), judged.outcome, tuple(judged.broken), round(record.seconds, 1), output=output
    )


def report(cases: Sequence[kinds.Case], entries: Sequence[ledger.Entry]) -> str:
    """Return tables of outcomes by way and by kind of request, and the broken cases."""
    heads = ["cases", *outcome.OUTCOMES]
    parts = []
    for title, named in (
        ("by way", [case.way for case in cases]),
        ("by kind of request", [str(case.injected_fault.kind) for case in cases]),
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
    shown = [entry for entry in entries if entry.outcome in (outcome.NOT_INJECTED, outcome.BROKEN)]
    parts += [f"{entry.outcome}: {entry.case}: {'; '.join(entry.broken)}".rstrip(": ") for entry in shown]
    slowest = max((entry.seconds for entry in entries), default=0)
    parts.append(f"{outcome.ABOUT}\nthe slowest case took {slowest:.0f} seconds")
    return "\n\n".join(parts)


def run_on_each(runners: Sequence[ScenarioRunner], act: Callable[[ScenarioRunner], None]) -> None:
    """Call `act` with all runners in parallel; after an exception or a signal, close them and raise it."""
    with ThreadPoolExecutor(len(runners)) as pool:
        try:
            list(pool.map(act, runners))
        except BaseException:
            for runner in runners:
                runner.close()
            raise
