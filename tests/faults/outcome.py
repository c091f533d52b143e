"""Whether a scenario in which a request failed kept every promise, and what it ended in.

What a message says is to be done is done here, to see that it helps.
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

from .scenario import CANCEL, CASE_SECONDS, FIRST, RUN, Played, Stage

if TYPE_CHECKING:
    from helpers.processes import Ended

RIGHT = "right result"
BROUGHT = "error; then brought"
ENDED = "error; then ended"
RESUMED = "error; then resumed"
NOTHING = "error; nothing began"
NOT_STRUCK = "not struck"
BROKEN = "promise broken"
OUTCOMES = (RIGHT, BROUGHT, ENDED, RESUMED, NOTHING, NOT_STRUCK, BROKEN)
ABOUT = """\
right result: exit code 0, the weights of the run in which nothing failed, every file as its checksum says
error; then ...: a worded error and exit code 4; what its message names was done, and brought the right
    result, ended the run, or started it again to the right result; or no run had begun
not struck: the request was not made again; nothing failed"""
_TOKEN = re.compile(r"eyJ[\w-]{20,}|[?&]sig=(?!\*\*\*)[\w%]{10}")
_TEXTS = (".json", ".jsonl", ".txt")


@dataclasses.dataclass
class CaseOutcome:
    """What a scenario ended in, and the promises that it broke."""

    outcome: str
    broken: list[str] = dataclasses.field(default_factory=list)

    def expect(self, *, that: bool, otherwise: str) -> None:
        if not that:
            self.broken.append(otherwise)
            self.outcome = BROKEN


def judge(stage: Stage, played: Played, weights: str, *, must_succeed: bool = False) -> CaseOutcome:
    """Judge a scenario that was played, against the `weights_sha256` of the run in which nothing failed."""
    outcome = CaseOutcome(RIGHT)
    struck = any(exchange.fault for exchange in played.exchanges)
    for text in _broken_in_any_case(stage, played):
        outcome.expect(that=False, otherwise=text)
    if not played.timed_out:
        try:
            if played.scenario == CANCEL:
                _judge_the_end(stage, played, outcome)
            else:
                _judge_the_run(stage, played, weights, outcome)
        except subprocess.TimeoutExpired as expired:
            outcome.expect(that=False, otherwise=f"{' '.join(expired.cmd[4:])} has no end")
    for text in _secrets(stage, played):
        outcome.expect(that=False, otherwise=text)
    is_right = outcome.outcome in (RIGHT, BROKEN)
    outcome.expect(that=is_right or not must_succeed, otherwise="a late answer was taken for none")
    if not struck and outcome.outcome != BROKEN:
        outcome.outcome = NOT_STRUCK
    return outcome


def _broken_in_any_case(stage: Stage, played: Played) -> Iterator[str]:
    """Yield what is wrong whatever the command said."""
    if played.timed_out:
        yield f"no end within {CASE_SECONDS:.0f} seconds"
    if "Traceback" in played.printed():
        yield "a traceback"
    if len(played.runs) > 1:
        yield f"{len(played.runs)} runs were submitted"
    made = [exchange.sent for exchange in played.exchanges if exchange.method == "PUT" and exchange.sent]
    if played.scenario == FIRST:
        if any(body != made[0] for body in made):
            yield "one cluster was made in two ways"
    elif made:
        yield "a cluster that was there was written"
    versions = stage.registered(played.model)
    if len(versions) > 1:
        yield f"the model has {len(versions)} versions"
    try:
        stage.service.check()
    except AssertionError as error:
        yield str(error)


def _judge_the_run(stage: Stage, played: Played, weights: str, outcome: CaseOutcome) -> None:
    ended, run = played.ended[-1], next(iter(played.runs), None)
    if ended.code == 0:
        _expect_the_result(played, weights, outcome, "a false success")
        _expect_one_version(stage, played, outcome)
        return
    _expect_worded(ended, outcome)
    status = run_folder.read_receipt(played.folder).status if played.folder.exists() else None
    if run is None or run.definition is None:
        outcome.expect(that=status in (Status.failed, None), otherwise=f"nothing began, but it is {status}")
        _end_as(outcome, NOTHING)
    elif not run.is_over:
        _expect_named(ended, f"cancel {RUN}", outcome)
        cancelled = stage.run(played, "cancel", RUN)
        outcome.expect(that=cancelled.code == 0 and run.is_over, otherwise=f"cancel: {cancelled.err[-500:]}")
        _end_as(outcome, ENDED)
    else:
        said = ended.out + ended.err
        verb = next((verb for verb in ("follow", "resume", "register") if f"{verb} {RUN}" in said), None)
        outcome.expect(that=verb is not None, otherwise="it does not say how to come to the result")
        if verb is not None:
            then = stage.run(
                played, verb, RUN, *(stage.register_arguments(played) if verb != "follow" else ())
            )
            outcome.expect(that=then.code == 0, otherwise=f"{verb}: {then.err[-500:]}")
            _expect_the_result(played, weights, outcome, f"after {verb}")
            if verb != "follow":  # which registers nothing
                _expect_one_version(stage, played, outcome)
        _end_as(outcome, RESUMED if verb == "resume" else BROUGHT)


def _judge_the_end(stage: Stage, played: Played, outcome: CaseOutcome) -> None:
    run, ended = played.runs[0], played.ended[-1]
    is_cancelled = len(played.ended) > 1
    if ended.code:
        verb = ("cluster", "delete") if is_cancelled else ("cancel", RUN)
        _expect_worded(ended, outcome)
        if not is_cancelled and not run.is_over:
            _expect_named(ended, f"cancel {RUN}", outcome)
        place = (f"backend.workspace={stage.service.home}", f"backend.cluster={played.cluster}")
        again = stage.run(played, *verb, *(("backend=azure", *place) if is_cancelled else ()))
        outcome.expect(that=again.code == 0, otherwise=f"{' '.join(verb)} again: {again.err[-500:]}")
        _end_as(outcome, ENDED)
    outcome.expect(that=run.status == "Canceled", otherwise=f"the run is {run.status} in the service")
    status = run_folder.read_receipt(played.folder).status
    outcome.expect(that=status is Status.cancelled, otherwise=f"the run is {status} here")
    is_there = played.cluster in stage.service.clusters
    outcome.expect(that=not is_there or not is_cancelled, otherwise="the cluster is still there")


def _expect_worded(ended: Ended, outcome: CaseOutcome) -> None:
    outcome.expect(that=ended.code == BackendError.exit_code, otherwise=f"exit code {ended.code}")
    is_worded = re.search(r"^error: .+\n.+", ended.err, flags=re.MULTILINE) is not None
    outcome.expect(that=is_worded, otherwise="an error without a word")


def _expect_named(ended: Ended, text: str, outcome: CaseOutcome) -> None:
    outcome.expect(that=text in ended.err, otherwise=f"a run goes on, and nothing says `{text}`")


def _expect_the_result(played: Played, weights: str, outcome: CaseOutcome, what: str) -> None:
    result = played.result
    if result is None:
        outcome.expect(that=False, otherwise=f"{what}: there is no result")
        return
    try:
        run_folder.verify(played.folder, result)
    except MnistCnnError as error:
        outcome.expect(that=False, otherwise=f"{what}: {error.message}")
    outcome.expect(that=result.weights_sha256 == weights, otherwise=f"{what}: other weights")
    status = run_folder.read_receipt(played.folder).status
    outcome.expect(that=status is Status.completed, otherwise=f"{what}: the run is {status}")


def _expect_one_version(stage: Stage, played: Played, outcome: CaseOutcome) -> None:
    versions = len(stage.registered(played.model))
    outcome.expect(that=versions == 1, otherwise=f"the model has {versions} versions")


def _end_as(outcome: CaseOutcome, name: str) -> None:
    if outcome.outcome != BROKEN:
        outcome.outcome = name


def _secrets(stage: Stage, played: Played) -> Iterator[str]:
    texts = {"what was printed": played.printed()}
    for path in played.folder.rglob("*"):
        if path.suffix in _TEXTS and path.is_file():
            texts[path.name] = path.read_text(encoding="utf-8", errors="replace")
    for place, text in texts.items():
        for secret in (stage.service.tenancy.client_secret, stage.service.tenancy.account_key):
            if secret in text:
                yield f"a secret in {place}"
        if _TOKEN.search(text):
            yield f"a token or a signature in {place}"
