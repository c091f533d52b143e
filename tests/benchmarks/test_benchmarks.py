"""The benchmarks' command line and tables. No test depends on speed."""

from __future__ import annotations

import json

import pytest

from benchmarks import report, time_to_accuracy
from benchmarks.__main__ import BENCHMARKS, parser
from benchmarks.machine import description

TIME = report.Metric("seconds", "times as fast as", less_is_better=True)
RATE = report.Metric("images per second", "times as fast as")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_is_a_command_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args([name]).rounds >= 1
    assert parser().parse_args([name, "--rounds", "2"]).rounds == 2
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    assert str(BENCHMARKS[name].__doc__).splitlines()[0] in capsys.readouterr().out
    for refused in (["--rounds", "0"], ["--json"], ["--never"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([name, *refused])
        assert ended.value.code == 2


def test_a_ratio_compares_medians_and_above_one_is_better() -> None:
    values = {"theirs": [8.0, 4.0, 100.0], "ours": [2.0, 1.0, 3.0]}
    times = report.Report("", TIME, values, ("theirs", "absent"))
    assert times.ratios("ours") == {"theirs": 4.0}
    assert times.ratios("theirs") == {"theirs": 1.0}
    assert report.Report("", RATE, values, ("theirs",)).ratios("ours") == {"theirs": 0.25}


def test_a_table_and_its_json_hold_the_same_values() -> None:
    values = {"theirs": [3000.0, 2000.0], "ours": [1000.0, 1000.0]}
    measured = report.Report("epochs", TIME, values, ("theirs",), {"other": "not installed"}, {"more": 1})
    assert measured.text().splitlines() == [
        "epochs",
        "seconds  minimum   median  maximum  times as fast as theirs",
        "theirs   2,000.0  2,500.0  3,000.0                     1.00",
        "ours     1,000.0  1,000.0  1,000.0                     2.50",
        "other    not installed",
    ]
    plain = json.loads(json.dumps(measured.as_mapping()))
    assert plain["summaries"]["ours"] == {"minimum": 1000.0, "median": 1000.0, "ratios": {"theirs": 2.5}}
    assert plain["values"] == values
    assert plain["missing"] == {"other": "not installed"}
    assert plain["more"] == 1


def test_contestants_take_turns_in_alternating_order(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def contestant(name: str) -> report.Measure:
        def measure() -> list[float]:
            order.append(name)
            return [float(len(order))]

        return measure

    values = report.take_turns({name: contestant(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"
    assert values == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert len(capsys.readouterr().err.splitlines()) == 9


def test_the_machine_is_described() -> None:
    described = description()
    assert described["processor"]
    assert described["count"] >= 1
    assert {"mnist-cnn", "tensorflow", "keras"} <= set(described["versions"])


def test_a_recipe_is_an_option_or_any_settings_with_a_target() -> None:
    parse = time_to_accuracy.Recipe.parse
    assert parse("quick") == time_to_accuracy.Recipe("quick", ("train=quick",), 0.99)
    mixed = parse("balanced train.epochs=4 model=small @0.9")
    assert mixed.overrides == ("train=balanced", "train.epochs=4", "model=small")
    assert mixed.target == 0.9
    assert parse("train.epochs=1").target is None
    chosen = parser().parse_args(["time-to-accuracy", "quick", "--seeds", "3-5"])
    assert (len(chosen.recipes), list(chosen.seeds)) == (1, [3, 4, 5])
    assert parser().parse_args(["time-to-accuracy", "--seeds", "0,7"]).seeds == [0, 7]


def test_trainings_that_reached_their_target_are_counted() -> None:
    recipe = time_to_accuracy.Recipe.parse("quick")
    trials = time_to_accuracy.Trials(recipe, [0, 1], [4.0, 3.0], [0.9901, 0.9899])
    assert trials.row() == ["quick", "3.00", "3.50", "98.99%", "99.00%", "99.00%", "1 of 2"]
    failed = time_to_accuracy.Trials(recipe, error="error: no such option")
    assert "error: no such option" in time_to_accuracy.Comparison([trials, failed]).text()
