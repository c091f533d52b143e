"""Turns the body of a request into an answer.

It has the digit, and the probability of each.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from mnist_cnn.errors import DataError
from mnist_cnn.prediction.pictures import Prepared

if TYPE_CHECKING:
    from mnist_cnn.prediction.predictor import Predictor

MAX_PIXELS = 20_000_000
"""Most pixels of a picture.

A small file can have very many. A phone's camera has 12 million.
"""
HINT = "send a PNG or JPEG picture of one digit, or a JSON array of rows with pixels from 0 to 255"
Rows = list[list[Annotated[int, msgspec.Meta(ge=0, le=255)]]]


def answer(predictor: Predictor, body: bytes, *, with_image: bool = False) -> dict[str, Any]:
    """Predict the digit of a picture or JSON array.

    The first byte tells which it is. A picture (PNG or JPEG) is prepared as `predict` prepares it. An array
    is used as it is, light ink on black. Raises DataError if the body is neither, or its picture or array
    cannot be used.
    """
    prepared = _prepare(body, predictor)
    (prediction,) = predictor.predict(prepared.image)
    found = {
        "digit": prediction.label,
        "name": prediction.name,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
        "warnings": (*prediction.warnings, *prepared.warnings),
    }
    return {**found, "image": prepared.image.tolist()} if with_image else found


def _prepare(body: bytes, predictor: Predictor) -> Prepared:
    height, width = predictor.height, predictor.width
    if not body:
        raise DataError("the body is empty", HINT)
    if body.lstrip()[:1] not in (b"[", b"{"):
        return predictor.prepare(BytesIO(body), max_pixels=MAX_PIXELS)
    try:
        rows = msgspec.json.decode(body, type=Rows)
    except msgspec.DecodeError as error:
        raise DataError(f"the body is not an array of pixels: {error}", HINT) from error
    if [len(row) for row in rows] != [width] * height:
        widths = sorted({len(row) for row in rows}) or [0]
        found = f"{len(rows)} rows of {' or '.join(map(str, widths[:3]))} pixels"
        raise DataError(f"the array has {found}; the model takes {height} rows of {width}", HINT)
    return Prepared(np.array(rows, np.uint8), ())
