"""The benchmarks' command line and tables. No test depends on speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import golden, processors, report, time_to_accuracy
from benchmarks.__main__ import BENCHMARKS, main, parser
from benchmarks.comparison import Comparison
from benchmarks.machine import NotInstalledError, description
from benchmarks.processors import Hashes

TIME = report.Metric("seconds", "times as fast as", less_is_better=True)
RATE = report.Metric("images per second", "times as fast as")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_is_a_command_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    assert str(BENCHMARKS[name].__doc__).splitlines()[0] in capsys.readouterr().out
    for refused in (["--json"], ["--never"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([name, *refused])
        assert ended.value.code == 2


@pytest.mark.parametrize("name", sorted(BENCHMARKS.keys() - {"golden", "identity", "journeys"}))
def test_each_measurement_is_repeated_as_often_as_chosen(name: str) -> None:
    assert parser().parse_args([name]).rounds >= 1
    assert parser().parse_args([name, "--rounds", "2"]).rounds == 2
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--rounds", "0"])
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


WEIGHTS = {"a": "11", "b": "22"}
OTHER = {"a": "11", "b": "33"}


def test_a_row_with_other_weights_breaks_the_comparison() -> None:
    equal = Comparison("", WEIGHTS, {"x": Hashes("float32", WEIGHTS)}, missing={"y": "not installed"})
    assert equal.holds
    assert "not installed" in equal.text()
    broken = Comparison("", WEIGHTS, {"x": Hashes("float32", WEIGHTS), "y": Hashes("bfloat16", OTHER)})
    assert not broken.holds
    lines = broken.text().splitlines()
    assert [line.split()[1] for line in lines[2:4]] == ["float32", "bfloat16"]
    assert [line.partition("  ")[2].split()[-2:] for line in lines[2:4]][1] == ["no:", "b"]
    assert not Comparison("", WEIGHTS, {}, failed={"x": "Illegal instruction"}).holds


def test_the_exit_code_tells_whether_all_weights_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    for weights, code in ((WEIGHTS, 0), (OTHER, 1)):
        found = Comparison("", WEIGHTS, {"x": Hashes("float32", weights)})
        monkeypatch.setattr(golden, "run", lambda _, found=found: [found])
        assert main(["golden"]) == code


def test_only_processors_that_agree_are_listed() -> None:
    found = {"AMD": Hashes("bfloat16", WEIGHTS), "Haswell": Hashes("float32", OTHER)}
    amd = ("AMD, bfloat16 kernels",)
    assert golden.agreed(None, found, may_replace=False) == golden.Golden(WEIGHTS, amd)
    listed = golden.Golden(WEIGHTS, ("Zen",))
    assert golden.agreed(listed, found, may_replace=True) == golden.Golden(WEIGHTS, (*amd, "Zen"))


def test_other_weights_are_replaced_only_if_that_is_asked_for() -> None:
    listed, found = golden.Golden(OTHER, ("Zen",)), {"AMD": Hashes("bfloat16", WEIGHTS)}
    assert golden.agreed(listed, found, may_replace=False) == listed
    replaced = golden.agreed(listed, found, may_replace=True)
    assert replaced == golden.Golden(WEIGHTS, ("AMD, bfloat16 kernels",))


def test_each_version_of_tensorflow_has_its_own_golden_weights(tmp_path: Path) -> None:
    file, entry = tmp_path / "golden.json", golden.Golden(WEIGHTS, ("AMD",))
    assert golden.Golden.read("2.21.0", file) is None
    entry.write("2.21.0", file)
    golden.Golden(OTHER).write("2.22.0", file)
    assert golden.Golden.read("2.21.0", file) == entry


def test_without_qemu_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotInstalledError, match="apt-get install qemu-user"):
        processors.hashes(golden.JOBS, "Haswell")
