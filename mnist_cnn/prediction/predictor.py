"""Pictures of digits -> digits, with ONNX Runtime.

`prepare` turns any PNG or JPEG picture of one digit into what a model trained on MNIST expects;
`load_predictor` opens the `model.onnx` of a run or of a registered model. Knows neither how a model
is trained nor what a run folder holds besides; never loads TensorFlow, Keras or Matplotlib.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import cpu
from mnist_cnn.errors import DataError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MODEL_FILE = "model.onnx"
RECORDS = ("result.json", "model.json")  # of a run, and of a registered model
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no EPS: Pillow starts Ghostscript for it
MODEL_BYTES = 2**31 - 1  # what Protobuf, of which ONNX is made, can hold
PICTURE_BYTES = 256 * 1024**2  # of a file, packed or not; some formats are read whole
ENOUGH_PIXELS = 1_000_000  # a larger picture is reduced first: its digit has pixels to spare
INK_BOX = 20 / 28  # http://yann.lecun.com/exdb/mnist: a 20x20 box in a 28x28 field
LEAST_CONTRAST = 8.0  # grey levels of 255 between ink and background; less is paper or noise
FAINTEST_INK = 0.2  # share of the contrast; below it lie JPEG's ripples and the blur of enlarging
MOST_BLUR = 3.0  # times the ink's area; what is fainter and larger is a shadow
LEAST_PART = 0.03  # share of the largest part of the ink; a smaller one is dust
BATCH = 32  # images of one call of ONNX Runtime: their activations stay in the processor's cache
MOST_THREADS = 4  # of one call: more do not help a network this small

PICTURE_HINT = "give a PNG or JPEG picture of one digit"
RECORD_HINT = "the folder's files were changed; copy them from where they are whole, or run the job again"
MODEL_HINT = "name a finished run's folder, a registered model's folder, or an .onnx file that training wrote"


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one picture, its probability, and the probability of every class."""

    label: int
    probability: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict: images of `height` x `width` -> probabilities of `classes`.

    `channels_first` tells whether the model's own input is (batch, 1, height, width) in place of
    (batch, height, width, 1); whoever calls need not care. `session` answers a few images with several
    threads, as soon as it can; `model` is the file's content, from which the session is made that answers
    many images.
    """

    height: int
    width: int
    classes: int
    channels_first: bool
    session: Any
    model: bytes = field(repr=False)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class probabilities of `images`.

        Args:
            images: uint8 (N, height, width), light ink on a dark background, as in MNIST; N may be 0.

        Returns:
            float32 (N, classes).

        Raises:
            DataError: the images have another shape or type than the model takes, or the model fails.
        """
        import numpy as np

        if images.dtype != np.uint8 or images.shape[1:] != (self.height, self.width):
            raise DataError(
                f"the model takes uint8 images of {self.height}x{self.width} pixels, "
                f"not {images.dtype} of shape {images.shape[1:]}",
                "predict with a model that was trained on images of this size",
            )
        if len(images) <= BATCH:
            return self._answer(self.session, images)
        from concurrent.futures import ThreadPoolExecutor

        # Threads that share a call wait for each other after every layer; with a batch each they need not.
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        with ThreadPoolExecutor(cpu.count()) as threads:
            return np.concatenate(list(threads.map(partial(self._answer, self._lone_session), batches)))

    @cached_property
    def _lone_session(self) -> Any:
        """A session that computes in the thread that calls it."""
        return _open_session(self.model, threads=1)

    def _answer(self, session: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of (N, height, width) images, by one call of the model."""
        import numpy as np

        if not len(images):
            return np.empty((0, self.classes), np.float32)
        scaled = images.astype(np.float32) / np.float32(255)
        return _run(session, np.expand_dims(scaled, 1 if self.channels_first else 3))

    def predict_files(self, paths: Sequence[Path]) -> list[Prediction]:
        """Return a prediction for each picture, in order; see `prepare` for the pictures.

        Raises:
            DataError: one of the files is not a picture of a digit; nothing is predicted then.
        """
        import numpy as np

        images = np.empty((len(paths), self.height, self.width), np.uint8)
        for index, path in enumerate(paths):
            images[index] = prepare(path, self.height, self.width)
        return [
            Prediction(int(row.argmax()), float(row.max()), tuple(float(value) for value in row))
            for row in self(images)
        ]


def load_predictor(folder_or_model: Path) -> Predictor:
    """Open a model: a run's or a registered model's folder that holds `model.onnx`, or an .onnx file.

    Raises:
        DataError: there is no such file, it is not the one that its folder's record describes, or it is no
            ONNX model of an image classifier.
    """
    import numpy as np

    path = folder_or_model / MODEL_FILE if folder_or_model.is_dir() else folder_or_model
    if folder_or_model.is_dir() and not path.exists():
        raise DataError(f"{folder_or_model} holds no {MODEL_FILE}", MODEL_HINT)
    try:
        model = safe_read.read_bytes(path, MODEL_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", MODEL_HINT) from error
    if folder_or_model.is_dir():
        _check_recorded(folder_or_model, model)
    try:
        session = _open_session(model, threads=min(MOST_THREADS, cpu.count()))
    except Exception as error:  # see _open_session
        raise DataError(
            f"{path} is not an ONNX model that can be run: {_reason(error)}", MODEL_HINT
        ) from error
    height, width, channels_first = _input_shape(path, session)
    predictor = Predictor(height, width, _number_of_classes(path, session), channels_first, session, model)
    _check_probabilities(path, predictor(np.zeros((1, height, width), np.uint8)), predictor.classes)
    return predictor


def _check_recorded(folder: Path, model: bytes) -> None:
    """Refuse a model that is not the one that was written: with a weight changed, it still predicts.

    What a run or a registered model is of files stands in its record, with lengths and checksums.
    """
    from mnist_cnn.result import FileEntry, describe_content

    for record in (folder / name for name in RECORDS):
        if not record.exists():
            continue
        try:
            files = json.loads(safe_read.read_text(record, safe_read.HISTORY_BYTES)).get("files", {})
            is_as_written = MODEL_FILE not in files or FileEntry(**files[MODEL_FILE]) == describe_content(
                model
            )
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(f"{record} is damaged: {error!r}", RECORD_HINT) from error
        if not is_as_written:
            raise DataError(f"{folder / MODEL_FILE} is not the file that the training wrote", RECORD_HINT)


def prepare(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Read a picture of one digit and bring it into the form that MNIST's images have.

    MNIST's digits were "size normalized to fit in a 20x20 pixel box while preserving their aspect
    ratio", got grey levels by anti-aliasing, and were "centered in a 28x28 image by computing the
    center of mass of the pixels" (http://yann.lecun.com/exdb/mnist). The box grows with the image.

    Args:
        path: a PNG or JPEG file of any size; dark ink on light or light on dark, also transparent,
            upright or turned by its EXIF orientation, on a background that may be uneven or noisy.
        height: rows of the image to make, for example 28.
        width: columns of the image to make, for example 28.

    Returns:
        uint8 (height, width), light ink on black.

    Raises:
        DataError: there is no such picture, it is damaged, too large, or blank.
    """
    grey = _read_grey(path)  # (rows, columns) of the picture
    ink = _find_ink(grey)  # the digit alone, in [0, 1]
    if ink is None:
        raise DataError(
            f"{path} is blank: nothing in it stands out from its background",
            "give a picture of one digit with some contrast and a margin around it",
        )
    fitted = _fit(ink, max(1, round(INK_BOX * height)), max(1, round(INK_BOX * width)))
    return _centre(fitted, height, width)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Translate whatever Pillow raises or warns of while it reads `path`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in the metadata, which concern nobody here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", PICTURE_HINT) from error
    except IsADirectoryError as error:
        raise DataError(
            f"{path} is a folder, not a picture", "name the pictures in it, one by one"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read here", PICTURE_HINT) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is too large: {error}", "make it smaller; 1000 pixels a side are plenty for one digit"
        ) from error
    except Exception as error:  # what a decoder raises depends on where the bytes are wrong
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as a picture: {reason}", PICTURE_HINT) from error


def _read_grey(path: Path) -> NDArray[np.float32]:
    """Read a picture as grey levels from 0 to 255, upright, of `ENOUGH_PIXELS` or a few more at most."""
    import numpy as np
    from PIL import Image, ImageOps

    with (
        _reading(path),
        safe_read.open_file(path, PICTURE_BYTES) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        if not image.width or not image.height:
            raise DataError(f"{path} has no pixels: it is {image.width}x{image.height}", PICTURE_HINT)
        ImageOps.exif_transpose(image, in_place=True)  # a copy of the largest takes a third of a gigabyte
        if image.has_transparency_data:
            coloured = image if image.mode == "RGBA" else image.convert("RGBA")
            return np.asarray(_flatten(_reduced(coloured)), np.float32)
        return np.asarray(_reduced(_to_grey(image)), np.float32)


def _reduced(image: Image.Image) -> Image.Image:
    """Reduce a picture of more than `ENOUGH_PIXELS`: what follows takes many times the memory of a pixel."""
    import numpy as np

    factor = int(np.ceil(np.sqrt(image.width * image.height / ENOUGH_PIXELS)))
    return image.reduce(factor) if factor > 1 else image


def _to_grey(image: Image.Image) -> Image.Image:
    """Return an opaque picture as grey levels of 8 bits; deeper ones are stretched over them."""
    import numpy as np
    from PIL import Image

    if image.mode[0] not in "IF":
        return image.convert("L")
    image = _reduced(image.convert("I") if image.mode.startswith("I;") else image)
    deep = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    span = float(np.ptp(deep)) or 1.0
    return Image.fromarray(((deep - deep.min()) * (255 / span)).round().astype(np.uint8))


def _flatten(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on an opaque background that its ink stands out from; return grey levels.

    Where the opaque part is a picture of its own (a card with round corners), the background is the
    colour of that part's edge; else the opaque part is the ink, dark or light.
    """
    import numpy as np
    from PIL import Image

    grey = np.asarray(image.convert("RGB").convert("L"))
    alpha = np.asarray(image.getchannel("A"))
    opaque = alpha >= 128  # noqa: PLR2004 - half
    if not opaque.any():
        opaque = alpha > 0
    if not opaque.any():
        return Image.fromarray(np.zeros_like(grey))
    rows, columns = (np.flatnonzero(opaque.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    rim = _rim(*opaque[box].shape) & opaque[box]
    is_card = opaque[box].mean() > 0.7 and np.ptp(grey[opaque].astype(int)) > LEAST_CONTRAST  # noqa: PLR2004
    is_dark = np.average(grey, weights=alpha) < 128  # noqa: PLR2004 - half
    backdrop = float(np.median(grey[box][rim])) if is_card else 255.0 if is_dark else 0.0
    share = alpha / np.float32(255)
    return Image.fromarray((grey * share + backdrop * (1 - share)).round().astype(np.uint8))


def _find_ink(grey: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Separate the ink from its background, crop to it; return it in [0, 1], or None for a blank picture.

    The background is what the picture's rim shows, so that the polarity need not be known. The ink is
    found by two thresholds: the higher, Otsu's, decides which connected parts are ink and which are
    dust, the lower how far those reach.
    """
    import numpy as np

    above, noise = _subtract_background(grey)
    candidates = above[above > max(4 * noise, LEAST_CONTRAST / 2)]
    if not candidates.size:
        return None
    threshold = _otsu(candidates)
    contrast = float(np.percentile(candidates[candidates >= threshold], 90))
    if contrast < max(LEAST_CONTRAST, 6 * noise):
        return None
    faintest = min(threshold, max(FAINTEST_INK * contrast, 4 * noise))
    strong = above >= threshold
    if np.count_nonzero(above >= faintest) > MOST_BLUR * np.count_nonzero(strong):
        faintest = threshold
    ink = _large_parts(above >= faintest, strong)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    digit: NDArray[np.float32] = np.where(ink[box], above[box] / contrast, 0).clip(0, 1).astype(np.float32)
    return digit


def _subtract_background(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return how much each pixel stands out towards the ink's side, and the background's noise (sigma).

    The background is a quadratic surface (a lamp's or a lens's fall of light), fitted to the rim, over
    again without what lies far off it: ink may touch the rim.
    """
    import numpy as np

    rows, columns = (np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in grey.shape)
    y, x = np.broadcast_arrays(rows[:, None], columns)
    terms = np.stack([np.ones_like(x), y, x, y * x, y * y, x * x], axis=-1).astype(np.float32)
    rim = _rim(*grey.shape)
    surface, values = terms[rim], grey[rim]
    off = values - np.median(values)
    for _ in range(3):
        near = np.abs(off) <= 3 * _sigma(off) + LEAST_CONTRAST
        coefficients = np.linalg.lstsq(surface[near], values[near], rcond=None)[0]
        off = values - surface @ coefficients
    above: NDArray[np.float32] = grey - terms @ coefficients
    if (above**3).sum(dtype=np.float64) < 0:  # noise is even-handed, ink is not
        above = -above
    return above, _sigma(off)


def _rim(height: int, width: int) -> NDArray[np.bool_]:
    """Mark the edge of a picture: a fiftieth of its shorter side, one pixel at least."""
    import numpy as np

    thickness = max(1, min(height, width) // 50)
    rim = np.ones((height, width), np.bool_)
    rim[thickness:-thickness, thickness:-thickness] = False
    return rim


def _sigma(values: NDArray[np.float32]) -> float:
    """Return the standard deviation as the median absolute deviation tells it, deaf to outliers."""
    import numpy as np

    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold that parts `values` into two classes best.

    It is the one with the largest variance between the classes (Otsu 1979,
    https://doi.org/10.1109/TSMC.1979.4310076).
    """
    import numpy as np

    counts, edges = np.histogram(values, bins=256)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    sums = np.cumsum(counts * edges[:-1])
    above = values.size - below
    split = (below > 0) & (above > 0)
    if not split.any():
        return float(values.min())
    means_apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(np.where(split, below * above * means_apart**2, -1))])


def _large_parts(mask: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the 8-connected parts of `mask` with enough `strong` pixels, beside the part that has most.

    Args:
        mask: bool (rows, columns).
        strong: bool of the same shape, a subset of `mask` with one True at least.
    """
    import numpy as np

    rows, columns = mask.shape
    stride = columns + 2  # two empty columns, so that a run never touches one of the row above's end
    flat = np.pad(mask, ((0, 0), (0, 2))).ravel()
    edges = np.diff(flat.astype(np.int8), prepend=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # each run of True in a row
    first = np.searchsorted(ends, starts + stride - 1, side="right")  # the runs that it touches below
    touched = np.maximum(np.searchsorted(starts, ends + stride + 1, side="left") - first, 0)
    upper = np.repeat(np.arange(starts.size), touched)
    lower = np.arange(upper.size) + np.repeat(first - (np.cumsum(touched) - touched), touched)
    part = _connect(starts.size, upper, lower)
    strong_before = np.concatenate([[0], np.cumsum(np.pad(strong, ((0, 0), (0, 2))).ravel())])
    weights = np.bincount(part, weights=strong_before[ends] - strong_before[starts])
    kept = weights[part] >= max(1.0, LEAST_PART * weights.max())
    changes = np.zeros(flat.size, np.int8)
    changes[starts[kept]] = 1
    changes[ends[kept]] = -1
    large: NDArray[np.bool_] = np.cumsum(changes, dtype=np.int8).reshape(rows, stride)[:, :columns] > 0
    return large


def _connect(nodes: int, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each node of a graph the least node that it is connected to; edges are left[i]-right[i]."""
    import numpy as np

    least = np.arange(nodes)
    while True:
        lower = np.minimum(least[left], least[right])
        new = least.copy()
        np.minimum.at(new, least[left], lower)
        np.minimum.at(new, least[right], lower)
        while not np.array_equal(new, new[new]):
            new = new[new]
        if np.array_equal(new, least):
            return least
        least = new


def _fit(ink: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize ink to fit into height x width pixels, keeping its aspect ratio, with anti-aliasing."""
    import numpy as np
    from PIL import Image

    scale = min(height / ink.shape[0], width / ink.shape[1])
    size = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    resized = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)).clip(0, None)
    peak = float(np.percentile(resized[resized >= resized.max() / 2], 75))  # a thin stroke has become faint
    fitted: NDArray[np.float32] = (resized / peak).clip(0, 1)
    return fitted


def _centre(ink: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Place ink with its centre of mass in the middle of a black image; whole pixels, all of it inside."""
    import numpy as np

    tops = []
    for axis, size in enumerate((height, width)):
        masses = ink.sum(1 - axis)
        centre = float(masses @ np.arange(masses.size)) / float(masses.sum())
        tops.append(min(max(round(size / 2 - centre), 0), size - masses.size))
    image = np.zeros((height, width), np.uint8)
    image[tops[0] : tops[0] + ink.shape[0], tops[1] : tops[1] + ink.shape[1]] = (ink * 255).round()
    return image


def _open_session(model: bytes, threads: int) -> Any:
    """Load an ONNX model for the CPU, silently; return an onnxruntime.InferenceSession.

    Its errors have no base class of their own, and are worded by who calls.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: an error is raised as well
    options.intra_op_num_threads = threads
    # Without the fallback, which is to the same provider, prints, and tries again.
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], enable_fallback=False
    )


def _run(session: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model on its one input."""
    try:
        (output,) = session.run(None, {session.get_inputs()[0].name: batch})
    except Exception as error:  # see _open_session
        raise DataError(f"the model fails on its input: {_reason(error)}", MODEL_HINT) from error
    result: NDArray[np.float32] = output
    return result


def _reason(error: Exception) -> str:
    """Return the last part of ONNX Runtime's "[ONNXRuntimeError] : code : NAME : reason", on one line."""
    return " ".join(str(error).split(" : ", 3)[-1].split())


def _input_shape(path: Path, session: Any) -> tuple[int, int, bool]:
    """Return height, width and whether the channel comes first, of a model's one input."""
    inputs = session.get_inputs()
    shapes = ", ".join(f"{value.type} {value.shape}" for value in inputs)
    refusal = DataError(
        f"{path} does not classify single-channel images: it takes {shapes or 'nothing'}, "
        "not one float32 array of (batch, height, width, 1) or (batch, 1, height, width)",
        MODEL_HINT,
    )
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:  # noqa: PLR2004
        raise refusal
    batch, *sizes = inputs[0].shape
    if isinstance(batch, int) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise refusal
    if math.prod(sizes) > ENOUGH_PIXELS:
        raise refusal
    if sizes[2] == 1:
        return sizes[0], sizes[1], False
    if sizes[0] == 1:
        return sizes[1], sizes[2], True
    raise refusal


def _number_of_classes(path: Path, session: Any) -> int:
    """Return the width of a model's one output, (batch, classes)."""
    outputs = session.get_outputs()
    if len(outputs) == 1 and outputs[0].type == "tensor(float)" and len(outputs[0].shape) == 2:  # noqa: PLR2004
        classes = outputs[0].shape[1]
        if isinstance(classes, int) and classes > 1:
            return classes
    shapes = ", ".join(f"{value.type} {value.shape}" for value in outputs)
    raise DataError(
        f"{path} is no classifier: it gives {shapes}, not one float32 array of (batch, classes)", MODEL_HINT
    )


def _check_probabilities(path: Path, values: NDArray[np.float32], classes: int) -> None:
    """Refuse a model whose output for one image is not (1, classes), or no distribution (logits, NaN)."""
    import numpy as np

    if values.shape != (1, classes):
        raise DataError(
            f"{path} is no classifier: it gives {values.shape} for one image, not {(1, classes)}", MODEL_HINT
        )
    if not (values.min() >= 0 and np.isclose(values.sum(), 1, atol=1e-3)):
        raise DataError(
            f"{path} gives no probabilities: for a black image they add up to {values.sum():.4g}",
            "train it with a softmax as its last layer",
        )
