"""Exact convolutions and matrix products, with gradients.

Imports TensorFlow. Each operand is first rounded to multiples of a unit, so that its numbers are integers of
at most 2**bits units. A sum of K products is then an integer of at most 4**bits K units, and float32 holds it
if that is at most 2**24. If this bound is too high, the operands themselves may show that the sums are small
enough; float64 computes the others. All ways give the same bits, so it does not matter which one is taken.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from mnist_cnn import cpu
from mnist_cnn.config import Precision
from mnist_cnn.training.exact import rounding

if TYPE_CHECKING:
    from collections.abc import Callable

BFLOAT16_BITS = 8  # of the significand


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How products are computed.

    Operands have at most 2**bits units. `result` is the dtype, float32 or bfloat16, that a product is rounded
    to; a sum in float64 is rounded to float32 before. `kernel` is the dtype that the processor multiplies.
    `batch` is the largest number of images.
    """

    bits: int
    result: tf.DType
    kernel: tf.DType
    batch: int

    @classmethod
    def choose(cls, bits: int, precision: Precision, batch: int) -> Arithmetic:
        """Return a training's arithmetic, with this processor's fastest kernels."""
        result = tf.bfloat16 if precision is Precision.bfloat16 else tf.float32
        is_native = bits <= BFLOAT16_BITS and result == tf.bfloat16 and cpu.has_bfloat16_kernels()
        return cls(bits, result, tf.bfloat16 if is_native else tf.float32, batch)

    def operand(self, values: Any) -> Operand:
        """Round float32 values to an operand of products.

        They may have any shape.
        """
        unit = rounding.unit_of(values, self.bits)
        multiples = rounding.to_multiples(values, unit)
        return Operand(multiples, unit, tf.cast(multiples, self.kernel))

    def product(self, compute: Callable[..., Any], a: Operand, b: Operand, terms: int, largest: Any) -> Any:
        """Return compute(a, b), float32.

        Its elements are sums of `terms` products. `largest` is a function that returns a bound of the sum of
        the magnitudes of one operand's numbers in an element, in units.
        """

        def fast() -> Any:
            return tf.cast(compute(a.narrow, b.narrow), self.result)

        def wide() -> Any:
            return tf.cast(compute(tf.cast(a.values, tf.float64), tf.cast(b.values, tf.float64)), self.result)

        rounding.check_float64(2 * self.bits, terms)
        if terms << 2 * self.bits <= 1 << rounding.FLOAT32_BITS:
            product = fast()
        else:
            product = tf.cond(largest() <= 2.0 ** (rounding.FLOAT32_BITS - self.bits), fast, wide)
        return tf.cast(product, tf.float32)


@dataclasses.dataclass(frozen=True)
class Operand:
    """Float32 numbers of any shape, multiples of `unit`.

    `narrow` are the same for the kernels.
    """

    values: Any
    unit: Any
    narrow: Any

    def largest_sum(self, axes: list[int]) -> Any:
        """Return the largest sum of magnitudes over some axes.

        It is in units. The sum may round, but only if it is above 2**24, and then the result is at least
        that.
        """
        return tf.reduce_max(rounding.float32_sum(tf.abs(self.values), axes)) / self.unit


def convolve(images: Any, kernel: Any, bias: Any, arithmetic: Arithmetic, **settings: Any) -> Any:
    """Convolve images with a kernel, and add a bias.

    All are float32: images (B, H, W, C), kernel (h, w, C, F), result (B, H', W', F), `bias` (F,) or None.
    `settings` are `strides` and `dilations`, of four numbers, and `padding`, "VALID" or "SAME", as
    TensorFlow's operations take them.
    """
    height, width, channels, filters = kernel.shape
    shape = tf.shape(images)

    def forward(x: Operand, w: Operand) -> Any:
        def compute(x: Any, w: Any) -> Any:
            return tf.raw_ops.Conv2D(input=x, filter=w, **settings)

        terms = height * width * channels
        return arithmetic.product(compute, x, w, terms, lambda: w.largest_sum([0, 1, 2]))

    def backward(x: Operand, w: Operand, dy: Operand) -> tuple[Any, Any]:
        def of_images(w: Any, dy: Any) -> Any:
            return tf.raw_ops.Conv2DBackpropInput(input_sizes=shape, filter=w, out_backprop=dy, **settings)

        def of_kernel(x: Any, dy: Any) -> Any:
            sizes = [height, width, channels, filters]
            return tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=sizes, out_backprop=dy, **settings)

        positions = arithmetic.batch * dy.values.shape[1] * dy.values.shape[2]
        terms = height * width * filters
        return (
            arithmetic.product(of_images, w, dy, terms, lambda: w.largest_sum([0, 1, 3])),
            arithmetic.product(of_kernel, x, dy, positions, lambda: dy.largest_sum([0, 1, 2])),
        )

    return _with_gradient(forward, backward, (images, kernel, bias), arithmetic)


def multiply(inputs: Any, kernel: Any, bias: Any, arithmetic: Arithmetic) -> Any:
    """Return inputs @ kernel + bias, all float32.

    Shapes: (B, D) @ (D, U) -> (B, U). `bias` is (U,) or None.
    """
    features, units = kernel.shape

    def forward(x: Operand, w: Operand) -> Any:
        def largest() -> Any:
            return tf.minimum(x.largest_sum([1]), w.largest_sum([0]))

        return arithmetic.product(tf.linalg.matmul, x, w, features, largest)

    def backward(x: Operand, w: Operand, dy: Operand) -> tuple[Any, Any]:
        of_inputs = functools.partial(tf.linalg.matmul, transpose_b=True)
        of_kernel = functools.partial(tf.linalg.matmul, transpose_a=True)
        return (
            arithmetic.product(of_inputs, dy, w, units, lambda: dy.largest_sum([1])),
            arithmetic.product(of_kernel, x, dy, arithmetic.batch, lambda: dy.largest_sum([0])),
        )

    return _with_gradient(forward, backward, (inputs, kernel, bias), arithmetic)


def _with_gradient(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    operands: tuple[Any, Any, Any],
    arithmetic: Arithmetic,
) -> Any:
    """Return a product plus bias, with its gradients.

    `forward` computes the product. `operands` are inputs, kernel, and bias or None. `backward` returns the
    gradients of the first two.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(inputs: Any, kernel: Any, *bias: Any) -> Any:
        x, w = arithmetic.operand(inputs), arithmetic.operand(kernel)
        result = forward(x, w)

        def gradient(upstream: Any) -> tuple[Any, ...]:
            dy = arithmetic.operand(upstream)
            of_operands: tuple[Any, ...] = backward(x, w, dy)
            if not bias:
                return of_operands
            axes = list(range(len(upstream.shape) - 1))
            total = rounding.exact_sum(dy.values, axes, arithmetic.bits, arithmetic.batch)
            return (*of_operands, tf.cast(total, tf.float32))

        return _add_bias(result, *bias) if bias else result, gradient

    return product(*(operand for operand in operands if operand is not None))


def _add_bias(values: Any, bias: Any) -> Any:
    """Add a bias (C,) to finished sums (..., C).

    A fused kernel may begin a sum with the bias. Grappler fuses a bias with the product that it is added to,
    unless something is between them.
    """
    return tf.squeeze(tf.nn.bias_add(tf.expand_dims(values, 0), bias), 0)
