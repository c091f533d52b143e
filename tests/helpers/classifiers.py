"""Small classifiers as ONNX models, and pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = ("batch", 28, 28, 1)


def classifier(path: Path, *, shape: tuple[Any, ...] = SHAPE, softmax: bool = True) -> Path:
    """Write a model that compares the upper half's mean with the lower half's."""
    height, width = (shape[2], shape[3]) if shape[1] == 1 else (shape[1], shape[2])
    weights = np.zeros((height * width, 2), np.float32)
    weights[: height * width // 2, 0] = weights[height * width // 2 :, 1] = 20 / (height * width)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits" if softmax else "out"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["out"], axis=1))
    return write_model(path, nodes, shape, ("batch", 2), [numpy_helper.from_array(weights, "weights")])


def write_model(  # noqa: PLR0913, PLR0917 - the parts of a graph
    path: Path,
    nodes: list[Any],
    shape: tuple[Any, ...],
    out: tuple[Any, ...],
    constants: list[Any],
    kind: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("out", kind, out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def letter_t() -> NDArray[np.uint8]:
    pixels = np.zeros((60, 60), np.uint8)
    pixels[10:16, 10:50] = pixels[16:50, 28:32] = 255
    return pixels


def save(pixels: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path
