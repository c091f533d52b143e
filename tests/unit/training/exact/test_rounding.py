"""Rounding to few bits, exact sums, and functions that are made of exact operations."""

from __future__ import annotations

import decimal
import itertools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]


@pytest.fixture
def rounding() -> Any:
    from mnist_cnn.training.exact import rounding

    return rounding


@pytest.mark.parametrize("exponent", [-52, -20, -1, 0, 1, 17, 49])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_unit_fits_powers_of_two_and_their_neighbours(rounding: Any, exponent: int, sign: int) -> None:
    power = np.float32(2.0**exponent)
    above, below = np.nextafter(power, np.float32(np.inf)), np.nextafter(power, np.float32(0))
    for largest, expected in ((below, exponent), (power, exponent), (above, exponent + 1)):
        values = sign * np.array([0, largest, -largest / 2], np.float32)
        assert float(rounding.unit_of(values, 8)) == 2.0 ** (expected - 8)


@pytest.mark.parametrize(
    ("largest", "unit"),
    [(2.0**50, 2.0**43), (np.nextafter(np.float32(2.0**50), np.float32(np.inf)), math.nan),
     (math.inf, math.nan),
     (2.0**-53, 2.0**-60), (2.0**-54, 2.0**-60), (2.0**-149, 2.0**-60), (0.0, 2.0**-60)],
)  # fmt: skip
def test_the_unit_ends_at_both_limits(rounding: Any, largest: float, unit: float) -> None:
    for sign in (1, -1):
        found = float(rounding.unit_of(np.array([0, sign * largest], np.float32), 7))
        assert found == pytest.approx(unit, rel=0, nan_ok=True)


def test_values_are_rounded_to_multiples_half_to_even(rounding: Any) -> None:
    halves = np.arange(-4096, 4097) * 0.5
    eighths = np.concatenate([halves, halves + 0.125, halves - 0.125, [2.0**22, -(2.0**22)]])
    for unit in (1.0, 2.0**-40, 2.0**60):
        found = rounding.to_multiples((eighths * unit).astype(np.float32), unit)
        np.testing.assert_array_equal(found, np.rint(eighths) * unit)


@pytest.mark.parametrize("bits", [2, 7, 12])
@pytest.mark.parametrize("axes", [axes for n in (1, 2, 3, 4) for axes in itertools.combinations(range(4), n)])
def test_a_sum_over_any_axes_equals_the_sum_of_integers(
    rounding: Any, axes: tuple[int, ...], bits: int
) -> None:
    """With 12 bits, float32 holds the sums of 4,096 terms, so that some axes are summed in float64."""
    import tensorflow as tf

    counts = np.random.default_rng(0).integers(2**bits - 2, 2**bits + 1, (3, 65, 65, 2))
    values = tf.constant((counts * 2.0**-9).astype(np.float32))
    for batch in (3, 2**20):
        found = rounding.exact_sum(values, list(axes), bits, batch)
        assert found.dtype == tf.float64
        np.testing.assert_array_equal(found, counts.sum(axis=axes) * 2.0**-9)
    reversed_axes = rounding.exact_sum(values, list(reversed(axes)), bits, 3)
    np.testing.assert_array_equal(reversed_axes, counts.sum(axis=axes) * 2.0**-9)


def test_exp_has_the_error_that_its_docstring_states(rounding: Any) -> None:
    values = [
        0.0,
        -0.0,
        -1e-300,
        -(2.0**-53),
        -1e-9,
        -0.34657359,
        -0.3465736,
        -math.log(2),
        -1.0,
        -699.9,
        -700.0,
    ]
    values += np.random.default_rng(0).uniform(-700, 0, 300).tolist()
    found = rounding._exp(np.array(values)).numpy()  # noqa: SLF001 - its docstring promises a bound
    with decimal.localcontext(prec=60):
        for value, ours in zip(values, found.tolist(), strict=True):
            expected = Fraction(Decimal(value).exp())
            assert abs(Fraction(ours) / expected - 1) < Fraction(1, 2**50), value
    assert found[0] == 1
    far = rounding._exp(np.array([-701.0, -1e30, -np.inf, -700.0])).numpy()  # noqa: SLF001
    assert (far == far[-1]).all()


def test_softmax_is_as_close_as_its_rounding_allows(rounding: Any) -> None:
    """Powers are rounded to multiples of 2**-40, which no difference of logits exceeds."""
    rng = np.random.default_rng(0)
    rows = [
        np.zeros(10), np.arange(10) * -80.0, np.full(10, 1e30), np.array([1e-30, *[0] * 9]),
        np.array([3e38, -3e38, *[0] * 8]), *rng.normal(scale=10, size=(40, 10)),
    ]  # fmt: skip
    logits = np.array(rows, np.float32)
    found = rounding.softmax(logits)[0].numpy()
    with decimal.localcontext(prec=60):
        for row, ours in zip(logits, found, strict=True):
            powers = [Decimal(float(logit) - float(max(row))).exp() for logit in row]
            expected = [float(power / sum(powers)) for power in powers]
            np.testing.assert_allclose(ours, expected, rtol=2e-12, atol=2.0**-40)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-15)
    assert np.isnan(rounding.softmax(np.array([[np.nan, 0], [np.inf, 0]], np.float32))[1]).all()


def test_cosine_and_sine_are_correct_to_the_last_bit_or_nearly(rounding: Any) -> None:
    angles = np.linspace(-np.pi, np.pi, 20_001).astype(np.float32)
    angles = np.clip(np.concatenate([angles, [0, 1e-30, -1e-30, 2.0**-149]]), -np.pi, np.pi).astype(
        np.float32
    )
    for found, expected in zip(rounding.cos_and_sin(angles), (np.cos, np.sin), strict=True):
        np.testing.assert_allclose(found, expected(angles.astype(np.float64)), rtol=1.2e-7, atol=1e-14)
    cos, sin = (np.asarray(values, np.float64) for values in rounding.cos_and_sin(angles))
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=2e-7)


def test_the_mean_rounds_each_value_to_2_to_the_minus_24(rounding: Any) -> None:
    values = np.random.default_rng(0).uniform(0, 1000, 4097)
    exact = sum(Fraction(round(Fraction(value) * 2**24), 2**24) for value in values) / len(values)
    assert float(rounding.exact_mean(values)) == float(exact)
    assert float(rounding.exact_mean(np.full(65_536, 1000 - 2**-20))) == 1000 - 2**-20
