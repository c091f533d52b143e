"""Every exact product equals the one that Python's integers compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.integer_products import Convolution, Integers, multiply

from mnist_cnn import cpu
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

FORMATS = [
    *itertools.product((2, 7, 8, 12), ("float32", "bfloat16"), ("float32",)),
    *((bits, "bfloat16", "bfloat16") for bits in (2, 7, 8) if cpu.has_bfloat16_kernels()),
]
KINDS = ("normal", "largest", "few")
CONVOLUTIONS = {
    "plain": Convolution(),
    "stride": Convolution(stride=2),
    "same": Convolution(padding="SAME"),
    "same with stride": Convolution(stride=2, padding="SAME"),
}


def arithmetic(bits: int, result: str = "float32", kernel: str = "float32", batch: int = 64) -> Any:
    import tensorflow as tf

    from mnist_cnn.training.exact.products import Arithmetic

    return Arithmetic(bits, tf.as_dtype(result), tf.as_dtype(kernel), batch)


def draw(kind: str, bits: int, *shape: int) -> NDArray[Any]:
    """Return operands: `normal`, all of the `largest` magnitudes and positive, or `few` not zero."""
    rng = np.random.default_rng([bits, *shape])
    values = rng.normal(size=shape)
    if kind == "largest":
        values = (2**bits - rng.integers(0, 2, shape)) * 2.0**-bits
        values.flat[0] = 1  # so that the unit is 2**-bits
    if kind == "few":
        values *= rng.random(shape) < 0.01
        values.flat[0] = 3
    return (values * 2.0 ** rng.integers(-9, 9)).astype(np.float32)


def with_gradients(compute: Callable[..., Any], *operands: NDArray[Any], dy: NDArray[Any]) -> list[Any]:
    """Return compute(*operands) and the gradients of all operands."""
    import tensorflow as tf

    tensors = [tf.constant(operand) for operand in operands]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = compute(*tensors)
    gradients = tape.gradient(result, tensors, output_gradients=tf.constant(dy))
    return [tensor.numpy() for tensor in (result, *gradients)]


def check(computed: list[Any], expected: tuple[Integers, ...], result: str) -> None:
    """Compare a product and its gradients with integers; the last is a bias', which is float32."""
    formats = (result, result, result, "float32")
    for name, ours, theirs, to in zip(("y", "dx", "dw", "db"), computed, expected, formats, strict=True):
        np.testing.assert_array_equal(ours, theirs.in_format(to), name)


def convolve(convolution: Convolution, exact: Any) -> Callable[..., Any]:
    from mnist_cnn.training.exact import products

    stride, dilation = [1, convolution.stride, convolution.stride, 1], [1, 1, 1, 1]
    settings = {"strides": stride, "dilations": dilation, "padding": convolution.padding}
    return lambda x, w, bias: products.convolve(x, w, bias, exact, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize(("bits", "result", "kernel"), FORMATS)
def test_a_convolution_and_its_gradients_equal_integers(
    bits: int, result: str, kernel: str, convolution: Convolution, kind: str
) -> None:
    images, weights = draw(kind, bits, 6, 9, 8, 2), draw(kind, bits, 3, 2, 2, 3)
    rows, columns = convolution.paddings(9, 3)[0], convolution.paddings(8, 2)[0]
    dy = draw(kind, bits, 6, rows, columns, 3)
    compute = convolve(convolution, arithmetic(bits, result, kernel))
    computed = with_gradients(compute, images, weights, np.zeros(3, np.float32), dy=dy)
    check(computed, convolution(*(Integers.of(a, bits) for a in (images, weights, dy))), result)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [5, 1100])
@pytest.mark.parametrize(("bits", "result", "kernel"), FORMATS)
def test_a_matrix_product_and_its_gradients_equal_integers(
    bits: int, result: str, kernel: str, features: int, kind: str
) -> None:
    from mnist_cnn.training.exact import products

    inputs, weights = draw(kind, bits, 4, features), draw(kind, bits, features, 3)
    dy, exact = draw(kind, bits, 4, 3), arithmetic(bits, result, kernel)
    computed = with_gradients(
        lambda x, w, bias: products.multiply(x, w, bias, exact),
        inputs,
        weights,
        np.zeros(3, np.float32),
        dy=dy,
    )
    check(computed, multiply(*(Integers.of(a, bits) for a in (inputs, weights, dy))), result)


@pytest.mark.parametrize("result", ["float32", "bfloat16"])
def test_a_compiled_product_is_rounded_before_the_bias_is_added(result: str) -> None:
    """The bias is large, so that a sum that begins with it would end in other bits."""
    import tensorflow as tf

    images, weights = draw("normal", 7, 5, 9, 8, 2), draw("normal", 7, 3, 2, 2, 3)
    bias = np.array([1e-3, 1e4, -3.3], np.float32)
    convolution, dense = Convolution(), arithmetic(7, result)
    compute = convolve(convolution, dense)
    compiled = tf.function(lambda *operands: tf.nn.relu(compute(*operands)), autograph=False)
    operands = [Integers.of(a, 7) for a in (images, weights, np.ones((5, 7, 7, 3)))]
    expected = np.maximum(convolution(*operands)[0].in_format(result) + bias, 0)
    np.testing.assert_array_equal(compiled(images, weights, bias), expected)


def test_a_long_sum_is_rounded_to_float32_before_bfloat16() -> None:
    """The sum, 2**26 + 2**18 + 1, is halfway between two numbers of bfloat16 once it is float32."""
    from mnist_cnn.training.exact import products

    inputs = np.array([[4096, 4096, 4096, 4096, 4096, 1]], np.float32)
    weights = np.array([[4096, 4096, 4096, 4096, 64, 1]], np.float32).T
    computed = products.multiply(inputs, weights, None, arithmetic(12, "bfloat16"))
    assert float(computed[0, 0]) == 2**26


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("bits", [7, 12])
def test_float32_multiplies_up_to_24_bits_and_float64_beyond(
    monkeypatch: pytest.MonkeyPatch, bits: int, spare: int
) -> None:
    """The inputs' magnitudes add up to 2**(24 - bits) units, or one more; all weights are the largest."""
    import tensorflow as tf

    from mnist_cnn.training.exact import products

    multiplied, matmul = [], tf.linalg.matmul

    def spied(a: Any, b: Any, **settings: Any) -> Any:
        multiplied.append(a.dtype)
        return matmul(a, b, **settings)

    monkeypatch.setattr(tf.linalg, "matmul", spied)
    limit = 2 ** (24 - bits)
    features = limit // 2**bits + 1
    inputs = np.zeros((1, 4096), np.float32)
    inputs[0, : features - 1] = 2**bits
    inputs[0, features - 1] = spare
    assert inputs.sum() == limit + spare
    weights = np.ones((4096, 2), np.float32)
    computed = products.multiply(tf.constant(inputs), tf.constant(weights), None, arithmetic(bits))
    assert multiplied == [tf.float64 if spare else tf.float32]
    np.testing.assert_array_equal(computed, np.float32(limit + spare))


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_at_run_time_is_never_too_low(seed: int) -> None:
    """It is the sum of magnitudes, which no partial sum exceeds, or at least 2**24."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    bits = int(rng.integers(2, 13))
    values = rng.normal(size=(7, rng.integers(1, 9000))) * 10.0 ** rng.integers(-6, 6)
    values = np.where(rng.random(values.shape) < rng.random(), values, 0).astype(np.float32)
    values[0, 0] = 1e-3
    operand = arithmetic(bits).operand(tf.constant(values))
    sums = np.abs(Integers.of(values, bits).counts).sum(axis=1)
    bound = float(operand.largest_sum([1]))
    assert bound == max(sums) or bound >= 2**24
    assert bound >= min(max(sums), 2**24)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**51, -(2.0**51)])
@pytest.mark.parametrize("result", ["float32", "bfloat16"])
def test_an_operand_out_of_bounds_makes_every_result_nan(bad: float, result: str) -> None:
    from mnist_cnn.training.exact import products

    exact = arithmetic(7, result)
    good = [draw("normal", 7, *shape) for shape in ((4, 37), (37, 3), (4, 3))]
    for which, position in itertools.product(range(3), (0, 1, 7, -1)):
        operands = [array.copy() for array in good]
        operands[which].flat[position] = bad
        inputs, weights, dy = operands
        computed = with_gradients(lambda x, w: products.multiply(x, w, None, exact), inputs, weights, dy=dy)
        is_nan = [bool(np.isnan(array).all()) for array in computed]
        assert is_nan == [which != 2, which != 0, which != 1], (which, position)


@pytest.mark.parametrize("values", [[0, 0, 0], [-0.0, 0, 0], [1e-40, -1e-45, 0], [2.0**-130, 2.0**-149, 0]])
def test_products_of_zeros_and_subnormal_numbers_are_zero(values: list[float]) -> None:
    from mnist_cnn.training.exact import products

    inputs, weights = np.array([values], np.float32), np.full((3, 2), 1e9, np.float32)
    for x, w in ((inputs, weights), (weights.T, inputs.T)):
        dy = np.ones((len(x), w.shape[1]), np.float32)
        computed = with_gradients(lambda x, w: products.multiply(x, w, None, arithmetic(7)), x, w, dy=dy)
        assert (computed[0] == 0).all()
        assert np.isfinite(np.concatenate([array.ravel() for array in computed])).all()


def test_the_largest_and_the_smallest_operands_neither_overflow_nor_vanish() -> None:
    from mnist_cnn.training.exact import products

    for size in (2.0**50, 2.0**-53):  # 2**-53 is 2**7 of the smallest units
        x, w = np.full((3, 4096), size, np.float32), np.full((4096, 2), size, np.float32)
        computed = with_gradients(
            lambda x, w: products.multiply(x, w, None, arithmetic(7)),
            x,
            w,
            dy=np.full((3, 2), size, np.float32),
        )
        assert [array.flat[0] / size / size for array in computed] == [4096, 2, 3]


def test_a_gradient_of_many_magnitudes_keeps_those_that_fit_its_bits() -> None:
    from mnist_cnn.training.exact import products

    dy = np.array([[1.0], [2.0**-7], [2.0**-8], [2.0**-9], [1e-30]], np.float32)
    x = np.eye(5, dtype=np.float32)
    _, _, of_weights = with_gradients(
        lambda x, w: products.multiply(x, w, None, arithmetic(7)), x, np.ones((5, 1), np.float32), dy=dy
    )
    assert of_weights.ravel().tolist() == [1, 2.0**-7, 0, 0, 0]  # 2**-8 is half a unit, rounded to even


def test_a_sum_beyond_float64_is_refused() -> None:
    from mnist_cnn.training.exact import products

    x, w, dy = (np.ones(shape, np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
    for batch, is_refused in ((2**29, False), (2**29 + 1, True)):
        exact = arithmetic(12, batch=batch)
        if not is_refused:
            with_gradients(lambda x, w: products.multiply(x, w, None, exact), x, w, dy=dy)  # noqa: B023
            continue
        with pytest.raises(ConfigurationError, match="a sum of 536870913 terms of 24 bits") as caught:
            with_gradients(lambda x, w: products.multiply(x, w, None, exact), x, w, dy=dy)  # noqa: B023
        assert caught.value.hint == "use a smaller train.exact_bits or train.batch_size"
