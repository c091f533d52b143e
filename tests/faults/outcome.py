"""Checks that a scenario with a failed request kept every promise, and classifies its outcome.

The command that an error message names is run, to check that it helps.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, MnistCnnError

from .scenario import CANCEL, CASE_SECONDS, FIRST, RUN, ScenarioRecord, ScenarioRunner

if TYPE_CHECKING:
    from helpers.processes import Ended

RIGHT = "right result"
COMPLETED = "error; then completed"
ENDED = "error; then ended"
RESUMED = "error; then resumed"
NOTHING = "error; nothing started"
NOT_INJECTED = "not injected"
BROKEN = "promise broken"
OUTCOMES = (RIGHT, COMPLETED, ENDED, RESUMED, NOTHING, NOT_INJECTED, BROKEN)
ABOUT = """\
right result: exit code 0, the weights of the run without faults, and every file matches its checksum
error; then ...: an error message and exit code 4; the command that it names completed the run, ended it,
    or resumed it to the right result; or no run had started
not injected: the request did not come, so nothing failed"""
_TOKEN = re.compile(r"eyJ[\w-]{20,}|[?&]sig=(?!\*\*\*)[\w%]{10}")
_TEXTS = (".json", ".jsonl", ".txt")


@dataclasses.dataclass
class CaseOutcome:
    """A scenario's outcome, and the promises that it broke."""

    outcome: str
    broken: list[str] = dataclasses.field(default_factory=list)

    def expect(self, *, that: bool, otherwise: str) -> None:
        if not that:
            self.broken.append(otherwise)
            self.outcome = BROKEN


def judge(
    runner: ScenarioRunner, record: ScenarioRecord, weights: str, *, must_succeed: bool = False
) -> CaseOutcome:
    """Judge a scenario; `weights` is the `weights_sha256` of a run without faults."""
    outcome = CaseOutcome(RIGHT)
    was_injected = any(exchange.fault for exchange in record.exchanges)
    for text in _broken_promises(runner, record):
        outcome.expect(that=False, otherwise=text)
    if not record.timed_out:
        try:
            if record.scenario == CANCEL:
                _judge_cancellation(runner, record, outcome)
            else:
                _judge_run(runner, record, weights, outcome)
        except subprocess.TimeoutExpired as expired:
            outcome.expect(that=False, otherwise=f"{' '.join(expired.cmd[4:])} does not end")
    for text in _secrets(runner, record):
        outcome.expect(that=False, otherwise=text)
    is_right = outcome.outcome in (RIGHT, BROKEN)
    outcome.expect(that=is_right or not must_succeed, otherwise="a late answer was treated as a failure")
    if not was_injected and outcome.outcome != BROKEN:
        outcome.outcome = NOT_INJECTED
    return outcome


def _broken_promises(runner: ScenarioRunner, record: ScenarioRecord) -> Iterator[str]:
    """Yield the broken promises that do not depend on the exit code."""
    if record.timed_out:
        yield f"still running after {CASE_SECONDS:.0f} seconds"
    if "Traceback" in record.printed():
        yield "a traceback"
    if len(record.runs) > 1:
        yield f"{len(record.runs)} runs were submitted"
    made = [exchange.sent for exchange in record.exchanges if exchange.method == "PUT" and exchange.sent]
    if record.scenario == FIRST:
        if any(body != made[0] for body in made):
            yield "one cluster was created with two definitions"
    elif made:
        yield "an existing cluster was overwritten"
    versions = runner.registered(record.model)
    if len(versions) > 1:
        yield f"the model has {len(versions)} versions"
    try:
        runner.service.check()
    except AssertionError as error:
        yield str(error)


def _judge_run(runner: ScenarioRunner, record: ScenarioRecord, weights: str, outcome: CaseOutcome) -> None:
    ended, run = record.ended[-1], next(iter(record.runs), None)
    if ended.code == 0:
        _expect_result(record, weights, outcome, "a false success")
        _expect_one_version(runner, record, outcome)
        return
    _expect_error_message(ended, outcome)
    status = run_folder.read_receipt(record.folder).status if record.folder.exists() else None
    if run is None or run.definition is None:
        outcome.expect(
            that=status in (Status.failed, None), otherwise=f"nothing started, but the run is {status}"
        )
        _end_as(outcome, NOTHING)
    elif not run.is_over:
        _expect_named(ended, f"cancel {RUN}", outcome)
        cancelled = runner.run(record, "cancel", RUN)
        outcome.expect(that=cancelled.code == 0 and run.is_over, otherwise=f"cancel: {cancelled.err[-500:]}")
        _end_as(outcome, ENDED)
    else:
        said = ended.out + ended.err
        verb = next((verb for verb in ("follow", "resume", "register") if f"{verb} {RUN}" in said), None)
        outcome.expect(that=verb is not None, otherwise="the message does not name the next command")
        if verb is not None:
            then = runner.run(
                record, verb, RUN, *(runner.register_arguments(record) if verb != "follow" else ())
            )
            outcome.expect(that=then.code == 0, otherwise=f"{verb}: {then.err[-500:]}")
            _expect_result(record, weights, outcome, f"after {verb}")
            if verb != "follow":  # follow does not register
                _expect_one_version(runner, record, outcome)
        _end_as(outcome, RESUMED if verb == "resume" else COMPLETED)


def _judge_cancellation(runner: ScenarioRunner, record: ScenarioRecord, outcome: CaseOutcome) -> None:
    run, ended = record.runs[0], record.ended[-1]
    is_cancelled = len(record.ended) > 1
    if ended.code:
        verb = ("cluster", "delete") if is_cancelled else ("cancel", RUN)
        _expect_error_message(ended, outcome)
        if not is_cancelled and not run.is_over:
            _expect_named(ended, f"cancel {RUN}", outcome)
        place = (f"backend.workspace={runner.service.home}", f"backend.cluster={record.cluster}")
        again = runner.run(record, *verb, *(("backend=azure", *place) if is_cancelled else ()))
        outcome.expect(that=again.code == 0, otherwise=f"{' '.join(verb)} again: {again.err[-500:]}")
        _end_as(outcome, ENDED)
    outcome.expect(that=run.status == "Canceled", otherwise=f"the run is {run.status} in the service")
    status = run_folder.read_receipt(record.folder).status
    outcome.expect(that=status is Status.cancelled, otherwise=f"the run is {status} here")
    exists = record.cluster in runner.service.clusters
    outcome.expect(that=not exists or not is_cancelled, otherwise="the cluster still exists")


def _expect_error_message(ended: Ended, outcome: CaseOutcome) -> None:
    outcome.expect(that=ended.code == BackendError.exit_code, otherwise=f"exit code {ended.code}")
    has_message = re.search(r"^error: .+\n.+", ended.err, flags=re.MULTILINE) is not None
    outcome.expect(that=has_message, otherwise="an error without a message")


def _expect_named(ended: Ended, text: str, outcome: CaseOutcome) -> None:
    outcome.expect(
        that=text in ended.err, otherwise=f"a run is still running, and the message does not name `{text}`"
    )


def _expect_result(record: ScenarioRecord, weights: str, outcome: CaseOutcome, what: str) -> None:
    result = record.result
    if result is None:
        outcome.expect(that=False, otherwise=f"{what}: no result")
        return
    try:
        run_folder.verify(record.folder, result)
    except MnistCnnError as error:
        outcome.expect(that=False, otherwise=f"{what}: {error.message}")
    outcome.expect(that=result.weights_sha256 == weights, otherwise=f"{what}: different weights")
    status = run_folder.read_receipt(record.folder).status
    outcome.expect(that=status is Status.completed, otherwise=f"{what}: the run is {status}")


def _expect_one_version(runner: ScenarioRunner, record: ScenarioRecord, outcome: CaseOutcome) -> None:
    versions = len(runner.registered(record.model))
    outcome.expect(that=versions == 1, otherwise=f"the model has {versions} versions")


def _end_as(outcome: CaseOutcome, name: str) -> None:
    if outcome.outcome != BROKEN:
        outcome.outcome = name


def _secrets(runner: ScenarioRunner, record: ScenarioRecord) -> Iterator[str]:
    texts = {"the output": record.printed()}
    for path in record.folder.rglob("*"):
        if path.suffix in _TEXTS and path.is_file():
            texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
    for place, text in texts.items():
        for secret in (runner.service.tenancy.client_secret, runner.service.tenancy.account_key):
            if secret in text:
                yield f"a secret in {place}"
        if _TOKEN.search(text):
            yield f"a token or a signature in {place}"
