"""Predicts digits with ONNX Runtime.

`load_predictor` opens the `model.onnx` of a run or of a registered model. Never loads TensorFlow, Keras or
Matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_cnn import cpu, records, registered
from mnist_cnn.config import Pictures as PicturesSetting
from mnist_cnn.errors import BackendError, DataError
from mnist_cnn.files import safe_read
from mnist_cnn.hints import command_line
from mnist_cnn.run_folder import MODEL, ONNX, RECEIPT, RESULT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mnist_cnn.prediction.pictures import PictureFile, Prepared

    Picture = PictureFile | NDArray[np.uint8]
    Pictures = Picture | Iterable[Picture]
    """Files, Pillow images or arrays: one or several.

    Arrays are in MNIST's form.
    """

MAX_MODEL_BYTES = 2**31 - 1  # the limit of Protobuf, on which ONNX is built
MAX_IMAGE_PIXELS = 1_000_000
BATCH = 32  # images per call of ONNX Runtime: their activations stay in the CPU's cache
MAX_THREADS = 4  # per call: more do not help a network this small
UNSURE = 0.8
"""A less probable prediction gets a warning.

With this package's recipes, 2 to 6% of MNIST's test images get one. They include 60 to 95% of the wrong
answers, and at least one in ten of them is wrong.
"""

CLASS_NAMES, PICTURES = "class_names", "pictures"
"""Names in an ONNX model's metadata: of the classes' names as JSON, and of `data.pictures`."""
RECORD_HINT = "the folder's files were changed; copy it again from an intact one, or register the run again"
MODEL_HINT = "name a finished run's folder, a registered model's folder, or an .onnx file that training wrote"


@dataclass(frozen=True)
class Prediction:
    """A picture's most probable class, and all probabilities.

    `name` is the class's name; without one, it is the label. `warnings` say why the label may be wrong: the
    model is unsure, or the picture is not one digit.
    """

    label: int
    name: str
    probability: float
    probabilities: tuple[float, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictor:
    """A loaded model: images -> class probabilities.

    Images have `height` x `width` pixels. If `channels_first`, the model's own input is (batch, 1, height,
    width), not (batch, height, width, 1); callers pass (N, height, width) either way. `session` runs a few
    images with several threads, for low latency. `model` is the file's content, from which the
    single-threaded session for many images is made. `class_names` are in the order of the labels. A model
    that was trained on pictures `takes_whole_pictures`; others take the ink that is found in them.
    """

    height: int
    width: int
    class_names: tuple[str, ...]
    takes_whole_pictures: bool
    channels_first: bool
    session: Any
    model: bytes = field(repr=False)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def prepare(self, picture: PictureFile, *, max_pixels: int | None = None) -> Prepared:
        """Convert a picture to the model's input. Raises as `pictures.prepare` does."""
        from mnist_cnn.prediction.pictures import Prepared, prepare, read_whole

        size = (self.height, self.width)
        if self.takes_whole_pictures:
            return Prepared(read_whole(picture, size, max_pixels=max_pixels), ())
        return prepare(picture, *size, max_pixels=max_pixels)

    def __call__(self, pictures: Pictures) -> NDArray[np.float32]:
        """Return the class probabilities, float32 (N, classes).

        One picture is N = 1. An array is one image (height, width) or a batch (N, height, width), uint8,
        light ink on a dark background as in MNIST. Files and Pillow images may have any size:
        `prepare` converts them.

        Raises DataError if a picture cannot be read, an array has another shape or dtype, or the model fails.
        """
        import numpy as np

        if hasattr(pictures, "__array__"):
            return self._probabilities(self._batch(pictures))
        images = [prepared.image for prepared in self._prepare(pictures)]
        return self._probabilities(np.array(images, np.uint8).reshape(-1, self.height, self.width))

    def predict(self, pictures: Pictures) -> list[Prediction]:
        """Return each picture's prediction, in order.

        Takes and raises what calling it does.
        """
        return self._predict_prepared(self._prepare(pictures))

    def predict_each(self, pictures: Iterable[PictureFile]) -> Iterator[Prediction | DataError]:
        """Yield each picture's prediction or DataError, in order.

        Reads a few pictures at a time, so that any number of them fits into memory. Raises DataError if the
        model fails.
        """
        remaining = iter(pictures)
        while batch := list(itertools.islice(remaining, BATCH)):
            attempts = [self._try_to_prepare(picture) for picture in batch]
            readable = [each for each in attempts if not isinstance(each, DataError)]
            predictions = iter(self._predict_prepared(readable))
            for each in attempts:
                yield each if isinstance(each, DataError) else next(predictions)

    def _try_to_prepare(self, picture: PictureFile) -> Prepared | DataError:
        try:
            return self.prepare(picture)
        except DataError as error:
            return error

    def _predict_prepared(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        import numpy as np

        images = np.array([each.image for each in prepared], np.uint8)
        rows = self._probabilities(images.reshape(-1, self.height, self.width))
        return [
            Prediction(
                label := int(row.argmax()),
                self.class_names[label],
                float(row.max()),
                tuple(row.tolist()),
                (*self._doubts(row), *each.warnings),
            )
            for row, each in zip(rows, prepared, strict=True)
        ]

    def _doubts(self, probabilities: NDArray[np.float32]) -> tuple[str, ...]:
        """Return a warning if the model is unsure."""
        *_, second, first = probabilities.argsort()
        if probabilities[first] >= UNSURE:
            return ()
        share = f"{probabilities[second]:.1%}"
        return (f"the model is unsure; {self.class_names[second]} has a probability of {share}",)

    def _prepare(self, pictures: Pictures) -> list[Prepared]:
        """Convert pictures to MNIST's form, which arrays already have."""
        from PIL.Image import Image

        from mnist_cnn.prediction.pictures import PICTURE_HINT, Prepared

        if hasattr(pictures, "__array__"):
            return [Prepared(image, ()) for image in self._batch(pictures)]
        if isinstance(pictures, str | Path | BufferedIOBase | Image):
            return [self.prepare(pictures)]
        if not isinstance(pictures, Iterable):
            raise DataError(f"not a picture: {pictures!r}", PICTURE_HINT)
        return [prepared for picture in pictures for prepared in self._prepare(picture)]

    def _batch(self, array: Any) -> NDArray[np.uint8]:
        """Return one or several images as (N, height, width).

        They may have a channel axis.
        """
        import numpy as np

        images, size = np.asarray(array), (self.height, self.width)
        if images.dtype != np.uint8:
            hint = "if the values are from 0 to 1, pass (images * 255).astype('uint8')"
            raise DataError(
                f"the model takes uint8 images, with values from 0 to 255, not {images.dtype}", hint
            )
        if images.shape not in (size, (*size, 1)) and images.shape[1:] not in (size, (*size, 1), (1, *size)):
            message = (
                f"the model takes arrays of {self.height}x{self.width} pixels, not of shape {images.shape}"
            )
            hint = "pass a picture of another size as PIL.Image.fromarray(array), which is scaled and centred"
            raise DataError(message, hint)
        return images.reshape(-1, *size)

    def _probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return images' class probabilities, (N, classes).

        `images` are (N, height, width). Uses all CPUs if N is large.
        """
        import numpy as np

        if len(images) <= BATCH:
            return self._predict_batch(self.session, images)
        from concurrent.futures import ThreadPoolExecutor

        # Threads that share a call wait for each other after every layer; threads with a batch each do not.
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        predict = partial(self._predict_batch, self._single_threaded_session)
        with ThreadPoolExecutor(cpu.count()) as threads:
            return np.concatenate(list(threads.map(predict, batches)))

    @cached_property
    def _single_threaded_session(self) -> Any:
        return _open_session(self.model, threads=1)

    def _predict_batch(self, session: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Call the model once; return probabilities (N, classes).

        `images` are (N, height, width).
        """
        import numpy as np

        if not len(images):
            return np.empty((0, self.classes), np.float32)
        batch = np.expand_dims(images.astype(np.float32) / np.float32(255), 1 if self.channels_first else 3)
        try:
            (output,) = session.run(None, {session.get_inputs()[0].name: batch})
        except Exception as error:  # see _open_session
            raise DataError(f"the model fails on its input: {_reason(error)}", MODEL_HINT) from error
        probabilities: NDArray[np.float32] = output
        return probabilities


def load_predictor(folder_or_model: str | Path, threads: int | None = None) -> Predictor:
    """Open a model, given its folder or .onnx file.

    The folder is a run's or a registered model's, with its `model.onnx`. `threads` share the work on a few
    images; by default at most four. One is best if several threads predict.

    Raises:
        DataError: the file is missing, differs from its folder's record, or is not an ONNX model that
            classifies images; or the run is not completed.
    """
    import numpy as np

    folder_or_model = Path(folder_or_model)
    is_folder = folder_or_model.is_dir()
    path = folder_or_model / ONNX if is_folder else folder_or_model
    if path.name == ONNX:
        _find_record(path.parent)  # a run that isn't completed says so, rather than that it has no model
    if is_folder and not path.exists():
        raise DataError(f"{folder_or_model} has no {ONNX}", MODEL_HINT)
    model = read_model(path)
    try:
        session = _open_session(model, threads or min(MAX_THREADS, cpu.count()))
    except Exception as error:  # see _open_session
        raise DataError(f"{path} is not a valid ONNX model: {_reason(error)}", MODEL_HINT) from error
    height, width, channels_first = _input_shape(path, session)
    about = session.get_modelmeta().custom_metadata_map
    names = _class_names(path, about, _number_of_classes(path, session))
    is_whole = about.get(PICTURES) == PicturesSetting.whole
    predictor = Predictor(height, width, names, is_whole, channels_first, session, model)
    _check_probabilities(path, predictor(np.zeros((1, height, width), np.uint8)), predictor.classes)
    return predictor


def read_model(path: Path) -> bytes:
    """Read a model's file; check it against its record.

    The record is that of its run or of its registered model, if any.

    Raises:
        DataError: the file is missing, or differs from the record; or the run is not completed.
    """
    record = _find_record(path.parent) if path.name in (ONNX, MODEL) else None
    try:
        model = safe_read.read_bytes(path, MAX_MODEL_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", MODEL_HINT) from error
    if record is not None:
        _check_recorded(path, model, record)
    return model


def _find_record(folder: Path) -> Path | None:
    """Return the record of a model's folder, or None.

    It lists the files of a run or of a registered model. Raises DataError for a run without a result.
    """
    if (folder / RESULT).exists():
        return folder / RESULT
    if (folder / RECEIPT).exists():
        follow, resume = command_line("follow", folder), command_line("resume", folder)
        hint = f"follow it to its end: {follow}; if it has stopped, resume it: {resume}"
        raise DataError(f"{folder} has no {RESULT}: its training is not completed", hint)
    return folder / registered.RECORD if (folder / registered.RECORD).exists() else None


def _check_recorded(path: Path, model: bytes, record: Path) -> None:
    """Refuse a model that differs from its record.

    A model with a changed weight would still predict.
    """
    from mnist_cnn.result import FileEntry, Result, describe_content

    is_run = record.name == RESULT
    hint = f"rebuild it: {command_line('resume', path.parent)}" if is_run else RECORD_HINT
    try:
        text = safe_read.read_text(record, safe_read.HISTORY_BYTES)
        if is_run:
            entry = Result.from_json(text, str(record)).files.get(path.name)
        else:
            entry = records.convert(FileEntry, records.decode(text)["files"][path.name])
    except BackendError as error:
        raise DataError(f"{record} is damaged: {error.message}", hint) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} is damaged: {error!r}", hint) from error
    if entry != describe_content(model):
        raise DataError(f"{path} is not the file that the training wrote", hint)


def _open_session(model: bytes, threads: int) -> Any:
    """Return an onnxruntime.InferenceSession for the CPU.

    It prints nothing. Its exceptions have no base class of their own, so callers catch Exception.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only; errors are raised as well
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    # The fallback would print, and retry with the same provider.
    return onnxruntime.InferenceSession(model, options, providers, enable_fallback=False)


def _reason(error: Exception) -> str:
    """Return the reason of an ONNX Runtime error.

    The error is "[ONNXRuntimeError] : code : NAME : reason".
    """
    return " ".join(str(error).split(" : ", 3)[-1].split())


def _input_shape(path: Path, session: Any) -> tuple[int, int, bool]:
    """Return a model's input height, width and channel order.

    True means that the channel comes first.
    """
    inputs = session.get_inputs()
    if len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4:  # noqa: PLR2004
        batch, *sizes = inputs[0].shape
        has_sizes = all(isinstance(size, int) and size > 0 for size in sizes)
        if not isinstance(batch, int) and has_sizes and math.prod(sizes) <= MAX_IMAGE_PIXELS:
            if sizes[2] == 1:
                return sizes[0], sizes[1], False
            if sizes[0] == 1:
                return sizes[1], sizes[2], True
    raise DataError(
        f"{path} does not classify single-channel images: it takes {_describe(inputs) or 'nothing'}, "
        "not one float32 array of (batch, height, width, 1) or (batch, 1, height, width)",
        MODEL_HINT,
    )


def _number_of_classes(path: Path, session: Any) -> int:
    """Return the width of a model's output (batch, classes)."""
    outputs = session.get_outputs()
    if len(outputs) == 1 and outputs[0].type == "tensor(float)" and len(outputs[0].shape) == 2:  # noqa: PLR2004
        classes = outputs[0].shape[1]
        if isinstance(classes, int) and classes > 1:
            return classes
    returned = f"it returns {_describe(outputs)}, not one float32 array of (batch, classes)"
    raise DataError(f"{path} is not a classifier: {returned}", MODEL_HINT)


def _describe(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.type} {value.shape}" for value in values)


def _class_names(path: Path, about: Mapping[str, str], classes: int) -> tuple[str, ...]:
    """Return the names that training has stored in a model, or else the labels."""
    if CLASS_NAMES not in about:
        return tuple(map(str, range(classes)))
    try:
        names = msgspec.json.decode(about[CLASS_NAMES], type=tuple[str, ...])
    except msgspec.DecodeError:
        names = ()
    if len(names) != classes:
        raise DataError(f"{path}: its class names are not those of {classes} classes", MODEL_HINT)
    return names


def _check_probabilities(path: Path, values: NDArray[np.float32], classes: int) -> None:
    """Refuse a model whose output is not probabilities.

    Its output for one image must have the shape (1, classes), and be neither logits nor NaN.
    """
    import numpy as np

    if values.shape != (1, classes):
        returned = f"it returns {values.shape} for one image, not {(1, classes)}"
        raise DataError(f"{path} is not a classifier: {returned}", MODEL_HINT)
    if not (values.min() >= 0 and np.isclose(values.sum(), 1, atol=1e-3)):
        raise DataError(
            f"{path} does not return probabilities: for a black image they add up to {values.sum():.4g}",
            "train it with a softmax as its last layer",
        )
