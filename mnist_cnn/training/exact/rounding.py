"""Rounding, sums without rounding, and functions of exact operations.

Floating-point sums depend on the order of their terms only because they round. If all terms are multiples of
one power of two, the unit, and no partial sum has more bits than the format holds, then no sum rounds, and
every order gives the same result. Reproducible BLAS (Demmel and Nguyen 2013, "Fast Reproducible
Floating-Point Summation") and the Ozaki scheme (Ozaki et al. 2012, "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication") build on this too.

TensorFlow's graph optimizer, Grappler, rewrites x / c as x * (1 / c), 1 / x and a / sqrt(b) with approximate
reciprocals, a * c + b * c as (a + b) * c, and trees of additions as one AddN. Exact code contains none of
these, so that its results do not depend on Grappler. Imports TensorFlow.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import tensorflow as tf

from mnist_cnn.errors import ConfigurationError

FLOAT32_BITS = 24  # of the significand
FLOAT64_BITS = 53
LARGEST = 2.0**50
"""Larger operands become NaN, which ends a training.

Sums of their products might overflow.
"""
SMALLEST_UNIT = 2.0**-60
"""Products of smaller units might be below 2**-126.

Some kernels take such numbers as zero.
"""
_LOG2_E = 1 / math.log(2)
_LN_2_HIGH = float.fromhex("0x1.62e42feep-1")  # 32 bits of ln 2, so that its multiples are exact
_LN_2_LOW = 1.9082149292705877e-10  # ln 2 less these bits


def unit_of(values: Any, bits: int) -> Any:
    """Return the unit of values, float32 ().

    It is the power of two of which `values`, float32 of any shape, are at most 2**bits multiples. It is NaN
    if one of them is not finite or exceeds LARGEST.
    """
    largest = tf.maximum(tf.reduce_max(values), -tf.reduce_min(values))
    # The bit pattern of the next power of two: round the significand up, into the exponent.
    pattern = tf.bitwise.bitwise_and(tf.bitcast(largest, tf.int32) + 0x007FFFFF, 0x7F800000)
    unit = tf.bitcast(pattern, tf.float32) * 2.0**-bits
    return tf.where(largest <= LARGEST, tf.maximum(unit, SMALLEST_UNIT), math.nan)


def to_multiples(values: Any, unit: Any) -> Any:
    """Round values to multiples of a unit.

    Rounds half to even. Values are float32, at most 2**22 units. Numbers from 2**23 to 2**24 units have no
    bits for fractions of a unit, so that adding one rounds.
    """
    shift = unit * (1.5 * 2.0**23)
    return (values + shift) - shift


def inverse_root(values: Any) -> Any:
    """Return 1 / sqrt(values), float64."""
    return tf.sqrt(values) / values


def exact_sum(values: Any, axes: list[int], bits: int, batch: int) -> Any:
    """Return the exact sum of float32 values, float64.

    Values are at most 2**bits multiples of one unit. `batch` bounds the size of the first axis. The last axes
    are summed in float32 as far as its bits go. Raises ConfigurationError if float64's bits do not suffice.
    """
    sizes = {axis: batch if axis == 0 else values.shape[axis] for axis in axes}
    check_float64(bits, math.prod(sizes.values()))
    within, terms = [], 1 << bits
    axes = sorted(axes)
    while axes and (terms := terms * sizes[axes[-1]]) <= 1 << FLOAT32_BITS:
        within.append(axes.pop())
    sums = tf.cast(float32_sum(values, within), tf.float64)
    return tf.reduce_sum(sums, axes)


def check_float64(bits: int, terms: int) -> None:
    """Check that float64 holds a sum. Raises ConfigurationError.

    It has `terms` numbers of at most 2**bits units.
    """
    if terms << bits > 1 << FLOAT64_BITS:
        message = f"train.numerics=exact: float64 cannot hold a sum of {terms} terms of {bits} bits"
        raise ConfigurationError(message, "use a smaller train.exact_bits or train.batch_size")


def float32_sum(values: Any, axes: list[int]) -> Any:
    """Return the sum over some axes, in any order.

    Values are float32.
    """
    # Three times as fast as reduce_sum over 128 images of 24 x 24 units in 64 channels.
    if sorted(axes) == list(range(len(values.shape) - 1)):
        return tf.raw_ops.BiasAddGrad(out_backprop=values)
    return tf.reduce_sum(values, axes)


def softmax(logits: Any) -> tuple[Any, Any]:
    """Return probabilities and their logarithms, float64 (B, classes).

    Logits are float32 (B, classes). The logarithms are at least -1000, so that their mean is exact.
    """
    logits = tf.cast(logits, tf.float64)
    logits -= tf.reduce_max(logits, axis=1, keepdims=True)
    powers = rounded(_exp(logits), 2.0**40)
    total = tf.reduce_sum(powers, axis=1, keepdims=True)  # exact for up to 2**13 classes
    return powers / total, tf.maximum(logits - tf.math.log(total), -1000.0)


def exact_mean(values: Any) -> Any:
    """Return the mean of values (B,), float64 ().

    Values are float64, at most 1000, and are first rounded to multiples of 2**-24.
    """
    return tf.reduce_sum(rounded(values)) / tf.cast(tf.size(values), tf.float64)


def rounded(values: Any, scale: float = 2.0**24) -> Any:
    """Round float64 values to multiples of 1 / scale.

    `scale` is a power of two.
    """
    return tf.round(values * scale) * (1 / scale)


def cos_and_sin(angles: Any) -> tuple[Any, Any]:
    """Return float32 cosine and sine; see `_exp`.

    Angles are float32 of any shape, from -pi to pi.
    """
    quarter = tf.cast(angles, tf.float64) * 0.25
    square = tf.square(quarter)
    cos = _polynomial(square, [(-1) ** n / math.factorial(2 * n) for n in range(10)])
    sin = quarter * _polynomial(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(10)])
    for _ in range(2):  # of the double angle
        cos, sin = 1 - 2 * tf.square(sin), 2 * sin * cos
    return tf.cast(cos, tf.float32), tf.cast(sin, tf.float32)


def power(base: float, exponent: Any) -> Any:
    """Return base ** exponent, float32; see `_exp`.

    The base is in (0, 1), the exponent an integer tensor.
    """
    logarithm = float(Decimal(base).ln())  # the nearest float64 on every machine
    return tf.cast(_exp(tf.cast(exponent, tf.float64) * logarithm), tf.float32)


def _exp(values: Any) -> Any:
    """Return e to the power of `values`.

    The relative error is below 2**-50. Values are float64, at most 0. It needs + and * only; a math library's
    exp differs between its versions and processors. e**x is 2**k * e**r, where k is x / ln 2 rounded.
    Taylor's polynomial gives e**r: |r| <= 0.35, and 0.35**14 / 14! < 2**-57.
    """
    values = tf.maximum(values, -700.0)
    k = tf.round(values * _LOG2_E)
    remainder = (values - k * _LN_2_HIGH) - k * _LN_2_LOW
    power = _polynomial(remainder, [1 / math.factorial(n) for n in range(14)])
    return power * tf.bitcast(tf.bitwise.left_shift(tf.cast(k, tf.int64) + 1023, 52), tf.float64)


def _polynomial(values: Any, coefficients: list[float]) -> Any:
    """Return the polynomial of float64 values.

    The coefficients begin with the constant.
    """
    *others, last = coefficients
    result = tf.zeros_like(values) + last
    for coefficient in reversed(others):
        result = result * values + coefficient
    return result
