"""Ranges in Hydra's syntax."""

from __future__ import annotations

import pytest

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.search.ranges import Range, split

RATE, UNITS = "train.learning_rate", "model.dense_units"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (RATE, "interval(0.001,0.1)", {"low": 0.001, "high": 0.1}),
        (RATE, "tag(log, interval(0.001,0.1))", {"low": 0.001, "high": 0.1, "is_log": True}),
        (RATE, "range(0.1,0.5,0.1)", {"low": 0.1, "high": 0.4, "step": 0.1}),
        (RATE, "interval(0,1)", {"low": 0.0, "high": 1.0}),
        (UNITS, "interval(8,64)", {"low": 8, "high": 64}),
        (UNITS, "range(8,65,8)", {"low": 8, "high": 64, "step": 8}),
        (UNITS, "range(10,1,-3)", {"low": 4, "high": 10, "step": 3}),
        (UNITS, "range(0,1000000000)", {"low": 0, "high": 999_999_999, "step": 1}),
        (UNITS, "16,32,16", {"choices": ("16", "32")}),
        ("model.filters", "[8],[8,16]", {"choices": ("[8]", "[8,16]")}),
        ("model", "glob(c*)", {"choices": ("cnn", "compact")}),
    ],
)
def test_a_range_is_a_choice_or_numbers(key: str, value: str, expected: dict[str, object]) -> None:
    fixed, (found,) = split(["seed=1", f"{key}={value}"])
    assert fixed == ("seed=1",)
    assert found == Range(key, f"{key}={value}", **expected)  # type: ignore[arg-type]
    assert isinstance(found.low, int) == isinstance(found.high, int) == (key != RATE)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"{UNITS}=range(5,5)", "holds no values"),
        (f"{UNITS}=range(5,1)", "holds no values"),
        (f"{UNITS}=range(1,5,-1)", "holds no values"),
        (f"{UNITS}=interval(8.2,8.7)", "holds no values"),
        (f"{RATE}=interval(0.1,0.001)", "holds no values"),
        (f"{RATE}=interval(0.1,nan)", "nan isn't a finite number"),
        (f"{UNITS}=interval(8,inf)", "inf isn't a finite number"),
        (f"{RATE}=range(1,inf)", "inf isn't a finite number"),
        (f"{RATE}=range(1,nan)", "nan isn't a finite number"),
        (f"{RATE}=range(1,3,-inf)", "-inf isn't a finite number"),
        (f"{RATE}=interval(0.1,0.1)", "holds one value"),
        (f"{UNITS}=range(5,6)", "holds one value"),
        (f"{UNITS}=choice(3)", "holds one value"),
        (f"{UNITS}=32,32", "holds one value"),
        (f"{UNITS}=range(1,10,0)", "the step is 0"),
        (f"{RATE}=tag(log, interval(0,0.1))", "begins above 0"),
        (f"{RATE}=tag(lin, interval(0.1,1))", "the only tag is log"),
    ],
)
def test_a_range_without_two_values_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        split([override])
    assert raised.value.message.startswith(override)
    assert raised.value.hint


def test_a_key_with_two_ranges_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        split([f"{RATE}=0.1,0.2", f"{RATE}=interval(0.1,1)"])
