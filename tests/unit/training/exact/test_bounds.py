"""No sum of a packaged network exceeds its accumulator's bits: the compiled graphs themselves are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from mnist_cnn import compose
from mnist_cnn.config import Format
from mnist_cnn.training.model import build_model

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

CASES = [
    ("model=cnn", 128, 7), ("train=quick", 64, 8), ("train=balanced", 128, 8), ("train=accurate", 128, 8),
    ("model=cnn", 1024, 7), *((f"model={name}", 65_536, 7) for name in ("cnn", "compact", "deep")),
    ("model=deep", 65_536, 12),
]  # fmt: skip
SIGNIFICAND_BITS = {"float64": 53, "float32": 24, "bfloat16": 24}  # of the accumulator
SHAPE = (28, 28, 1)


def graph_of(override: str, batch: int, bits: int) -> Any:
    """Return the compiled graph that computes a network's loss and gradients for a batch of images."""
    import tensorflow as tf

    from mnist_cnn.training.exact.layers import with_exact_layers
    from mnist_cnn.training.exact.loss import cross_entropy
    from mnist_cnn.training.exact.products import Arithmetic

    config = compose.load([override]).model
    plain = build_model(config, SHAPE, 10, Format.channels_last, "float32")
    model = with_exact_layers(plain, Arithmetic(bits, tf.float32, tf.float32, batch))

    def step(images: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            loss, _ = cross_entropy(targets, model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    specs = tf.TensorSpec((batch, *SHAPE)), tf.TensorSpec((batch, 10))
    return tf.function(step, autograph=False).get_concrete_function(*specs).graph


def operations(graph: Any, *, is_chosen: bool = False) -> Iterator[tuple[Any, bool]]:
    """Yield every operation, and whether a condition at run time decides that it is computed."""
    for operation in graph.get_operations():
        yield operation, is_chosen
        if operation.type in ("If", "StatelessIf"):
            for branch in ("then_branch", "else_branch"):
                name = operation.get_attr(branch).name
                yield from operations(graph._get_function(name).graph, is_chosen=True)  # noqa: SLF001


def terms_of(operation: Any) -> int | None:
    """Return how many products an operation adds for each element, or None if it adds no products."""
    shapes = [tensor.shape.as_list() for tensor in operation.inputs]
    if operation.type == "Conv2D":
        return int(math.prod(shapes[1][:3]))
    if operation.type == "Conv2DBackpropInput":
        return int(math.prod((*shapes[1][:2], shapes[1][3])))
    if operation.type == "Conv2DBackpropFilter":
        return int(math.prod(shapes[2][:3]))
    if "MatMul" in operation.type:
        transposes = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        return int(shapes[0][-2 if transposes else -1])
    return None


@pytest.mark.parametrize(("override", "batch", "bits"), CASES)
def test_every_sum_fits_its_accumulator(override: str, batch: int, bits: int) -> None:
    """Without a look at the operands, float32 has to fit for all; float64 always has to."""
    found = []
    for operation, is_chosen in operations(graph_of(override, batch, bits)):
        if (terms := terms_of(operation)) is not None:
            dtype = operation.inputs[-1].dtype.name
            needed = 2 * bits + math.log2(terms)
            found.append((operation.type, dtype))
            if dtype == "float64" or not is_chosen:
                assert needed <= SIGNIFICAND_BITS[dtype], (operation.name, terms)
            else:  # otherwise the look would be useless
                assert needed > SIGNIFICAND_BITS[dtype], (operation.name, terms)
        elif operation.type == "Sum" and operation.inputs[0].dtype.name == "float32":
            needed = bits_of(operation.inputs[0].op.type, bits)
            sizes = [t.shape.num_elements() for t in (operation.inputs[0], operation.outputs[0])]
            assert needed + math.log2(sizes[0] / sizes[1]) <= SIGNIFICAND_BITS["float32"], operation.name
    kinds = {kind for kind, _ in found}
    assert {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul"} <= kinds
    assert "float64" in {dtype for _, dtype in found}


def bits_of(source: str, bits: int) -> float:
    """Return the bits of the terms of a sum, which are made by a kind of operation.

    Squares and products have twice the operands' bits. Magnitudes are only summed for a bound, which may
    round if it is above 24 bits.
    """
    return {"Abs": -math.inf, "Square": 2 * bits, "Mul": 2 * bits}.get(source, bits)
