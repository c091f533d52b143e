"""Products of rounded operands in Python's integers, which never round."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNIFICAND_BITS = {"float32": 24, "bfloat16": 8}


@dataclasses.dataclass(frozen=True)
class Integers:
    """Numbers as whole multiples, Python integers of any shape, of a unit."""

    counts: NDArray[Any]
    unit: Fraction

    @classmethod
    def of(cls, values: NDArray[Any], bits: int) -> Self:
        """Round values, half to even, to at most 2**bits units, the unit being a power of two."""
        significand, exponent = math.frexp(float(np.abs(values).max()))
        unit = Fraction(2) ** (exponent - (significand == 0.5) - bits)
        rounded = np.frompyfunc(lambda value: round(Fraction(float(value)) / unit), 1, 1)
        return cls(rounded(values), unit)

    def in_format(self, name: str) -> NDArray[Any]:
        """Return the numbers as float32, rounded once, half to even, to `float32` or `bfloat16`."""
        bits = SIGNIFICAND_BITS[name]

        def in_format(count: int) -> float:
            spare = max(0, abs(count).bit_length() - bits)
            return float(round(Fraction(count, 2**spare)) * 2**spare * self.unit)

        return np.asarray(np.frompyfunc(in_format, 1, 1)(self.counts), np.float32)


def multiply(x: Integers, w: Integers, dy: Integers) -> tuple[Integers, ...]:
    """Return x @ w, (B, U), and its gradients by x, (B, D), w, (D, U), and a bias, (U,)."""
    return (
        Integers(x.counts @ w.counts, x.unit * w.unit),
        Integers(dy.counts @ w.counts.T, dy.unit * w.unit),
        Integers(x.counts.T @ dy.counts, x.unit * dy.unit),
        Integers(dy.counts.sum(axis=0), dy.unit),
    )


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with the same stride and dilation along both axes; padding is VALID or SAME."""

    stride: int = 1
    dilation: int = 1
    padding: str = "VALID"

    def paddings(self, size: int, kernel: int) -> tuple[int, int, int]:
        """Return the size of the output, and the zeros before and after, along an axis, as TensorFlow's."""
        span = (kernel - 1) * self.dilation + 1
        if self.padding == "VALID":
            return (size - span) // self.stride + 1, 0, 0
        result = math.ceil(size / self.stride)
        zeros = max(0, (result - 1) * self.stride + span - size)
        return result, zeros // 2, zeros - zeros // 2

    def under(self, position: int, count: int) -> slice:
        """Return the `count` places along an axis that one position of the kernel meets."""
        first = position * self.dilation
        return slice(first, first + (count - 1) * self.stride + 1, self.stride)

    def __call__(self, x: Integers, w: Integers, dy: Integers) -> tuple[Integers, ...]:
        """Return images (B, H, W, C) * kernel (h, w, C, F), and its gradients by both and by a bias, (F,)."""
        height, width, channels, filters = w.counts.shape
        (rows, *top), (columns, *left) = (
            self.paddings(size, kernel)
            for size, kernel in zip(x.counts.shape[1:3], (height, width), strict=True)
        )
        images, of_rows, of_columns, _ = x.counts.shape
        shape = (images, sum(top) + of_rows, sum(left) + of_columns, channels)
        inside = np.s_[:, top[0] : top[0] + of_rows, left[0] : left[0] + of_columns]
        padded = np.zeros(shape, object)
        padded[inside] = x.counts
        result = np.zeros((images, rows, columns, filters), object)
        of_images, of_kernel = np.zeros_like(padded), np.zeros_like(w.counts)
        for row in range(height):
            for column in range(width):
                part = (slice(None), self.under(row, rows), self.under(column, columns))
                weights = w.counts[row, column]
                result += padded[part] @ weights
                of_images[part] += dy.counts @ weights.T
                flat = padded[part].reshape(-1, channels), dy.counts.reshape(-1, filters)
                of_kernel[row, column] = flat[0].T @ flat[1]
        return (
            Integers(result, x.unit * w.unit),
            Integers(of_images[inside], dy.unit * w.unit),
            Integers(of_kernel, x.unit * dy.unit),
            Integers(dy.counts.sum(axis=(0, 1, 2)), dy.unit),
        )
