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
    """The outcome of a scenario, and the promises that it broke; `weights` are those without a fault."""

    runner: ScenarioRunner
    record: ScenarioRecord
    weights: str
    outcome: str = RIGHT
    broken: list[str] = dataclasses.field(default_factory=list)

    def expect(self, that: object, otherwise: str) -> None:
        if not that:
            self.broken.append(otherwise)

    def judge_run(self) -> None:
        ended, run = self.record.ended[-1], next(iter(self.record.runs), None)
        if ended.code == 0:
            self._expect_result("a false success")
            self._expect_one_version()
            return
        self._expect_error_message(ended)
        if run is None or run.definition is None:
            status = self._status() if self.record.folder.exists() else None
            self.expect(status in (Status.failed, None), f"nothing started, but the run is {status}")
            self.outcome = NOTHING
        elif not run.is_over:
            self._expect_cancel_named(ended)
            cancelled = self.runner.run(self.record, "cancel", RUN)
            self.expect(cancelled.code == 0 and run.is_over, f"cancel: {cancelled.err[-500:]}")
            self.outcome = ENDED
        else:
            self._take_the_hint(ended)

    def _take_the_hint(self, ended: Ended) -> None:
        """Run the command that the message of an ended run names."""
        said = ended.out + ended.err
        verb = next((verb for verb in ("follow", "resume", "register") if f"{verb} {RUN}" in said), None)
        self.outcome = RESUMED if verb == "resume" else COMPLETED
        if verb is None:
            self.broken.append("the message does not name the next command")
            return
        arguments = self.runner.register_arguments(self.record) if verb != "follow" else ()
        then = self.runner.run(self.record, verb, RUN, *arguments)
        self.expect(then.code == 0, f"{verb}: {then.err[-500:]}")
        self._expect_result(f"after {verb}")
        if verb != "follow":  # follow does not register
            self._expect_one_version()

    def judge_cancellation(self) -> None:
        run, ended = self.record.runs[0], self.record.ended[-1]
        is_cancelled = len(self.record.ended) > 1
        if ended.code:
            self._expect_error_message(ended)
            if not is_cancelled and not run.is_over:
                self._expect_cancel_named(ended)
            verb = ("cluster", "delete", *self.runner.place(self.record)) if is_cancelled else ("cancel", RUN)
            again = self.runner.run(self.record, *verb)
            self.expect(again.code == 0, f"{' '.join(verb[:2])} again: {again.err[-500:]}")
            self.outcome = ENDED
        self.expect(run.status == "Canceled", f"the run is {run.status} in the service")
        self.expect(self._status() is Status.cancelled, f"the run is {self._status()} here")
        exists = self.record.cluster in self.runner.service.clusters
        self.expect(not exists or not is_cancelled, "the cluster still exists")

    def _status(self) -> Status:
        return run_folder.read_receipt(self.record.folder).status

    def _expect_error_message(self, ended: Ended) -> None:
        self.expect(ended.code == BackendError.exit_code, f"exit code {ended.code}")
        self.expect(re.search(r"^error: .+\n.+", ended.err, re.MULTILINE), "an error without a message")

    def _expect_cancel_named(self, ended: Ended) -> None:
        verb = f"cancel {RUN}"
        self.expect(verb in ended.err, f"a run is still running, and the message does not name `{verb}`")

    def _expect_result(self, what: str) -> None:
        result = self.record.result
        if result is None:
            self.broken.append(f"{what}: no result")
            return
        try:
            run_folder.verify(self.record.folder, result)
        except MnistCnnError as error:
            self.broken.append(f"{what}: {error.message}")
        self.expect(result.weights_sha256 == self.weights, f"{what}: different weights")
        self.expect(self._status() is Status.completed, f"{what}: the run is {self._status()}")

    def _expect_one_version(self) -> None:
        versions = len(self.runner.registered(self.record.model))
        self.expect(versions == 1, f"the model has {versions} versions")


def judge(
    runner: ScenarioRunner, record: ScenarioRecord, weights: str, *, must_succeed: bool = False
) -> CaseOutcome:
    """Judge a scenario; `weights` is the `weights_sha256` of a run without faults."""
    found = CaseOutcome(runner, record, weights)
    found.broken += _broken_promises(runner, record)
    if not record.timed_out:
        try:
            if record.scenario == CANCEL:
                found.judge_cancellation()
            else:
                found.judge_run()
        except subprocess.TimeoutExpired as expired:
            found.broken.append(f"{' '.join(expired.cmd[4:])} does not end")
    found.broken += _secrets(runner, record)
    found.expect(found.outcome == RIGHT or not must_succeed, "a late answer was treated as a failure")
    if found.broken:
        found.outcome = BROKEN
    elif not any(exchange.fault for exchange in record.exchanges):
        found.outcome = NOT_INJECTED
    return found


def _broken_promises(runner: ScenarioRunner, record: ScenarioRecord) -> Iterator[str]:
    """Yield the broken promises that do not depend on the exit code."""
    if record.timed_out:
        yield f"still running after {CASE_SECONDS:.0f} seconds"
    if "Traceback" in record.printed():
        yield "a traceback"
    if len(record.runs) > 1:
        yield f"{len(record.runs)} runs were submitted"
    puts = [one for one in record.exchanges if one.method == "PUT" and "/computes/" in one.path]
    made = [exchange.sent for exchange in puts if exchange.sent]
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
