"""Damaged models: model.onnx predicts, model.keras is registered."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx

from mnist_cnn.errors import MnistCnnError
from mnist_cnn.prediction.predictor import load_predictor

from . import mutations
from .reader import ACCEPTED, Fault, Files, Reader, asked, compose_once, put
from .run_files import REGISTER_RUN


class Onnx(Reader):
    """A foreign .onnx file with changed fields or bytes; sometimes beside the record of another model."""

    SIZES = (0, 1, -1, 2, 3, 7, 10, 28, 255, 65_536, 2**31 - 1, 2**31, 2**40, 2**62, -(2**31), -(2**62))
    WORDS = (
        *("", "x", "Conv", "Reshape", "Loop", "If"),
        *("Gather", "Expand", "Tile", "Pad", "Concat", "Constant"),
    )
    refusals = MnistCnnError

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder)
        self.sound = (run / "model.onnx").read_bytes()
        self.record = (run / "result.json").read_bytes()

    def draw(self, random: Random) -> Files:
        change = random.choice((mutations.damaged, self._changed, self._changed, self._changed))
        files = {"model.onnx": change(self.sound, random)}
        return files | {"result.json": self.record} if random.random() < 0.3 else files

    def read(self, files: Files) -> str:
        (self.folder / "result.json").unlink(missing_ok=True)
        put(self.folder, files)
        predictor = load_predictor(self.folder)
        if "result.json" in files and files["model.onnx"] != self.sound:
            raise Fault("another model was accepted as the run's")
        if (predictor.height, predictor.width) != (28, 28):
            return "accepted, of another size"
        answer = predictor(np.zeros((2, 28, 28), np.uint8))
        if answer.shape != (2, predictor.classes) or answer.dtype != np.float32:
            raise Fault(f"{answer.dtype} {answer.shape} was returned as the probabilities of two images")
        return ACCEPTED

    def _changed(self, content: bytes, random: Random) -> bytes:
        """Change sizes, names, operators or weights; drop or duplicate parts."""
        model = onnx.ModelProto.FromString(content)
        messages: list[Any] = list(parts(model))
        words = [
            *self.WORDS,
            *{name for node in model.graph.node for name in (*node.input, *node.output, node.op_type)},
        ]
        for _ in range(random.choice((1, 1, 2, 3))):
            message = random.choice(messages)
            filled: list[tuple[Any, Any]] = message.ListFields()
            if filled:
                with contextlib.suppress(ValueError, TypeError):  # a value of the wrong type is not set
                    field, value = random.choice(filled)
                    self._change(message, field, value, sorted(words), random)
        return bytes(model.SerializeToString())

    def _change(self, message: Any, field: Any, value: Any, words: list[str], random: Random) -> None:
        if random.random() < 0.15:
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            if field.is_repeated and random.random() < 0.5:
                del value[random.randrange(len(value))]
            elif field.is_repeated:
                value.add().CopyFrom(random.choice(list(value)))
        elif field.is_repeated:
            value[random.randrange(len(value))] = self._other(field, value[0], words, random)
        else:
            setattr(message, field.name, self._other(field, value, words, random))

    def _other(self, field: Any, value: Any, words: list[str], random: Random) -> Any:
        if field.type == field.TYPE_STRING:
            return random.choice(words)
        if isinstance(value, bytes):
            return mutations.damaged(value, random)
        if isinstance(value, float):
            return random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
        return random.choice(self.SIZES)


def parts(message: Any) -> list[Any]:
    """Return a Protobuf message and all messages within it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                found += parts(inner)
    return found


class KerasModel(Reader):
    """model.keras, which must be registered unchanged or not at all, and is never loaded."""

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder)
        self.run = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
        os.chdir(folder)
        compose_once()

    def draw(self, random: Random) -> Files:
        return {"model.keras": mutations.damaged(self.run["model.keras"], random)}

    def read(self, files: Files) -> str:
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        put(self.folder / "runs/run", {**self.run, **files})
        ended = asked(*REGISTER_RUN)
        if (ended == ACCEPTED) != (files["model.keras"] == self.run["model.keras"]):
            raise Fault(f"{ended}, though it is not what the training wrote")
        return ended
