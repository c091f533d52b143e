"""Two cases of the matrix that `tox -e faults` runs, which no other test holds; and how the matrix counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from faults import kinds, outcome
from faults.__main__ import parser
from faults.every_request import Recording, record_scenario, report, run_case
from faults.kinds import FIRST, LAST, Case, InjectedFault, Kind, Observed, Seen
from faults.ledger import Entry, Ledger, Shard
from faults.scenario import AGAIN, CANCEL, ScenarioRunner
from faults.scenario import FIRST as FIRST_RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

SUBMISSION = Kind("POST", "/execution/v1.0<WS>/experiments/{experiment}/snapshotrun")
CANCELLATION = Kind("POST", "/execution/v1.0<WS>/experiments/{experiment}/runId/{run}/cancel")
CASES = [
    Case(AGAIN, InjectedFault(SUBMISSION, FIRST), "lost answer"),
    Case(CANCEL, InjectedFault(CANCELLATION, FIRST), "403"),
]


@pytest.fixture(scope="module")
def runner(azure_started: AzureService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenarioRunner]:
    from loopback import Behaviour

    yield ScenarioRunner(azure_started, tmp_path_factory.mktemp("runner"))
    azure_started.clusters.behaviour = Behaviour()
    azure_started.requests.clear()


@pytest.fixture(scope="module")
def weights(runner: ScenarioRunner) -> str:
    """The weights of the run if nothing fails."""
    _, found = record_scenario(runner, AGAIN)
    return found[0]


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_failed_request_ends_in_the_right_result_or_a_hint(
    runner: ScenarioRunner, weights: str, case: Case
) -> None:
    entry = run_case(runner, case, weights)
    assert not entry.broken, f"{entry.broken}\n{entry.output}"
    assert entry.outcome != outcome.NOT_INJECTED


def test_each_kind_fails_at_its_first_and_last_request() -> None:
    look, log, found = Kind("GET", "/run"), Kind("GET", "/log"), Kind("GET", "/cluster")
    fast = [Seen(look), Seen(log), Seen(log), Seen(look, is_late=True), Seen(found)]
    slow = [Seen(look), *fast]
    observed = {
        AGAIN: [Observed(slow), Observed(fast)],
        FIRST_RUN: [Observed(fast, [found])],
    }
    recording = msgspec.to_builtins(Recording("weights", observed))
    cases = list(kinds.cases(msgspec.convert(recording, Recording).observed))
    assert len({str(case) for case in cases}) == len(cases)
    places = {(case.scenario, case.injected_fault) for case in cases}
    assert places == {
        (AGAIN, InjectedFault(look, FIRST)),
        (AGAIN, InjectedFault(look, LAST, is_late=True)),
        (AGAIN, InjectedFault(log, FIRST)),
        (AGAIN, InjectedFault(log, LAST, 2)),
        (AGAIN, InjectedFault(found, FIRST)),
        (FIRST_RUN, InjectedFault(found, FIRST)),
    }
    assert len(cases) == len(places) * len(kinds.WAYS)


def test_a_finished_case_is_not_repeated_unless_the_code_changed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    Ledger(path, "this").add(Entry("a", outcome.RIGHT, seconds=1.0))
    Ledger(path, "this").add(Entry("b", outcome.BROKEN, ("a traceback",)))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"case": "c", "outc')  # killed as it was written
    again = Ledger(path, "this")
    assert [name for name in "abc" if name in again] == ["a", "b"]
    assert [entry.broken for entry in again.entries("ab")] == [(), ("a traceback",)]
    assert "a" not in Ledger(path, "other")
    assert "a" in Ledger(path, "other", any_code=True)


def test_shards_share_all_cases_and_none_twice() -> None:
    names = [f"case {number}" for number in range(100)]
    parts = [{name for name in names if name in Shard.parse(f"{part}/3")} for part in (1, 2, 3)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100
    for refused in (["requests", "--shard", "4/3"], ["requests", "--shard", "0/3"], ["never"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(refused)
        assert ended.value.code == 2


def test_the_tables_hide_no_case() -> None:
    cases = [*CASES, Case(AGAIN, InjectedFault(SUBMISSION, LAST), "delay")]
    entries = [
        Entry(str(cases[0]), outcome.RIGHT),
        Entry(str(cases[1]), outcome.BROKEN, ("a traceback",)),
        Entry(str(cases[2]), outcome.NOT_INJECTED),
    ]
    text = report(cases, entries)
    assert f"{cases[1]}: a traceback" in text
    assert f"not injected: {cases[2]}" in text
    assert text.count("\nall") == 2
