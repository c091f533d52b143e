"""Converts a picture of a digit to MNIST's form.

`prepare` reads the picture, separates the ink from its background, scales it and centres it.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_cnn.errors import DataError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    OpenFile = BytesIO | BufferedReader
    PictureFile = str | Path | OpenFile | Image.Image
    """A path, an open binary file or a Pillow image."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # not EPS: Pillow starts Ghostscript for it
MAX_FILE_BYTES = 256 * 1024**2  # some formats are read whole
MAX_PIXELS = 1_000_000  # a larger picture is reduced first: its digit has pixels to spare
INK_BOX = 20 / 28  # http://yann.lecun.com/exdb/mnist: a 20x20 box in a 28x28 field
MIN_CONTRAST = 8.0  # grey levels of 255 between ink and background; less is paper or noise
MIN_INK = 0.2  # share of the contrast; JPEG ripples and the blur of enlarging lie below it
MAX_BLUR = 3.0  # times the ink's area; anything fainter and larger is a shadow
MIN_PART = 0.03  # share of the largest part of the ink; a smaller part is dust
SHAPE_HEIGHT = 0.5  # share of the tallest part's height; a lower part beside it is a stroke of the digit
FRAME_SIDE = 0.8  # share of each side of a frame that has ink; the sides of a round digit have less
FILLED_SHARE = 0.9  # share of the picture's sides; larger ink is paper within a dark frame
CARD_SHARE = 0.7  # share of opaque pixels above which a transparent picture is a card, not bare ink
HALF = 128  # of the 256 levels of alpha or grey

PICTURE_HINT = "give a PNG or JPEG picture of one digit"
SIZE_HINT = "make it smaller; 1000 pixels a side are plenty for one digit"
SHAPES_WARNING = "the picture holds several shapes, which were read as one digit; crop it to one"
FRAME_WARNING = "the picture has a frame, which was read as a part of the digit; crop it"


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image in MNIST's form.

    `warnings` say why its prediction may be worthless.
    """

    image: NDArray[np.uint8]
    warnings: tuple[str, ...]


def prepare(picture: PictureFile, height: int, width: int, *, max_pixels: int | None = None) -> Prepared:
    """Convert a picture of one digit to MNIST's form.

    MNIST's digits were "size normalized to fit in a 20x20 pixel box while preserving their aspect
    ratio", got grey levels by anti-aliasing, and were "centered in a 28x28 image by computing the
    center of mass of the pixels" (http://yann.lecun.com/exdb/mnist). The box grows with the image.

    `picture` is a PNG or JPEG file, open or not, or a Pillow image of any size, with dark ink on light or
    light on dark, also transparent, upright or turned by its EXIF orientation, on a background that may be
    uneven or noisy. Errors call an open file by its `name`.

    A picture of more than `max_pixels` is refused. The image is uint8 (height, width), light ink on black.

    Raises:
        DataError: the picture is missing, damaged, too large or blank.
    """
    name = _name_of(picture)
    grey = _read_grey(picture, name, max_pixels)  # (rows, columns) of the picture
    found = _find_ink(grey)
    if found is None:
        hint = "give a picture of one digit with some contrast and a margin around it"
        raise DataError(f"{name} is blank: nothing in it stands out from its background", hint)
    ink, found_warnings = found
    fitted = _fit(ink, max(1, round(INK_BOX * height)), max(1, round(INK_BOX * width)))
    return Prepared(_centre(fitted, height, width), found_warnings)


def read_whole(
    picture: PictureFile, size: tuple[int, int] | None = None, *, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Read a picture's grey levels as they are, upright, uint8 (height, width).

    It is resized to the `size`, height and width, if any. Takes the files that `prepare` takes, and raises as
    it does, but a picture may be blank.
    """
    grey = _read_grey(picture, _name_of(picture), max_pixels, size)
    image = Image.fromarray(grey.round().astype(np.uint8))
    if size is not None and size != grey.shape:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image)


def _name_of(picture: PictureFile) -> str:
    return str(picture) if isinstance(picture, str | Path) else str(getattr(picture, "name", "the picture"))


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Translate Pillow's errors and warnings about the picture `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in the metadata do not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist", PICTURE_HINT) from error
    except IsADirectoryError as error:
        raise DataError(f"{name} is a folder, not a picture", "name each picture in it") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not a picture in a supported format", PICTURE_HINT) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is too large: {error}", SIZE_HINT) from error
    except Exception as error:  # a decoder raises whatever the damaged bytes lead to
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{name} cannot be read as a picture: {reason}", PICTURE_HINT) from error


def _read_grey(
    picture: PictureFile, name: str, max_pixels: int | None, size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Read a picture as upright grey levels.

    Levels are from 0 to 255. The result has about `MAX_PIXELS` at most, and twice the `size` at least.
    """
    with _translate_errors(name):
        if isinstance(picture, Image.Image):
            return _grey_levels(picture.copy(), name)
        with _opened(picture) as file, Image.open(file, formats=FORMATS) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                pixels = f"{image.width}x{image.height} pixels; the limit is {max_pixels:,}"
                raise DataError(f"{name} is too large: it has {pixels}", SIZE_HINT)
            if size is not None:  # a JPEG file of a camera is decoded five times as fast
                image.draft(None, (2 * max(size),) * 2)
            return _grey_levels(image, name)


def _opened(picture: str | Path | OpenFile) -> AbstractContextManager[OpenFile]:
    """Open a picture's file.

    One that is open already stays open at the end.
    """
    if isinstance(picture, BufferedIOBase):
        return nullcontext(picture)
    return safe_read.open_file(Path(picture), MAX_FILE_BYTES)


def _grey_levels(image: Image.Image, name: str) -> NDArray[np.float32]:
    """Return an image's grey levels; may change the image."""
    if not image.width or not image.height:
        raise DataError(f"{name} has no pixels: it is {image.width}x{image.height}", PICTURE_HINT)
    ImageOps.exif_transpose(image, in_place=True)  # a copy of the largest takes a third of a gigabyte
    if image.has_transparency_data:
        coloured = image if image.mode == "RGBA" else image.convert("RGBA")
        return np.asarray(_flatten(_reduce(coloured)), np.float32)
    return np.asarray(_reduce(_to_grey(image)), np.float32)


def _reduce(image: Image.Image) -> Image.Image:
    """Reduce a picture above `MAX_PIXELS`.

    Later steps take many times a pixel's memory.
    """
    factor = int(np.ceil(np.sqrt(image.width * image.height / MAX_PIXELS)))
    return image.reduce(factor) if factor > 1 else image


def _to_grey(image: Image.Image) -> Image.Image:
    """Return an opaque picture as 8-bit grey levels.

    Deeper levels are rescaled to 0..255.
    """
    if image.mode[0] not in "IF":
        return image.convert("L")
    image = _reduce(image.convert("I") if image.mode.startswith("I;") else image)
    deep = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    span = float(np.ptp(deep)) or 1.0
    return Image.fromarray(((deep - deep.min()) * (255 / span)).round().astype(np.uint8))


def _flatten(image: Image.Image) -> Image.Image:
    """Composite an RGBA picture onto a contrasting background.

    Returns grey levels. If the opaque part is a picture of its own (a card with round corners), the
    background is the colour of that part's edge. If not, the opaque part is the ink, dark or light.
    """
    grey = np.asarray(image.convert("RGB").convert("L"))
    alpha = np.asarray(image.getchannel("A"))
    opaque = alpha >= HALF
    if not opaque.any():
        opaque = alpha > 0
    if not opaque.any():
        return Image.fromarray(np.zeros_like(grey))
    box = _bounding_box(opaque)
    border = _border(*opaque[box].shape) & opaque[box]
    is_card = opaque[box].mean() > CARD_SHARE and np.ptp(grey[opaque].astype(int)) > MIN_CONTRAST
    is_dark = np.average(grey, weights=alpha) < HALF
    backdrop = float(np.median(grey[box][border])) if is_card else 255.0 if is_dark else 0.0
    share = alpha / np.float32(255)
    return Image.fromarray((grey * share + backdrop * (1 - share)).round().astype(np.uint8))


def _find_ink(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
    """Return the cropped ink in [0, 1], and warnings.

    None if the picture is blank. The picture's border shows the background, so the polarity need not be
    known. Two thresholds find the ink. The higher one (Otsu's) decides which connected parts are ink and
    which are dust; the lower one decides how far those parts reach.
    """
    signal, noise = _subtract_background(grey)
    candidates = signal[signal > max(4 * noise, MIN_CONTRAST / 2)]
    if not candidates.size:
        return None
    threshold = _otsu(candidates)
    contrast = float(np.percentile(candidates[candidates >= threshold], 90))
    if contrast < max(MIN_CONTRAST, 6 * noise):
        return None
    low = min(threshold, max(MIN_INK * contrast, 4 * noise))
    strong = signal >= threshold
    if np.count_nonzero(signal >= low) > MAX_BLUR * np.count_nonzero(strong):
        low = threshold
    ink, boxes = _large_parts(signal >= low, strong)
    box = _bounding_box(ink)
    digit: NDArray[np.float32] = np.where(ink[box], signal[box] / contrast, 0).clip(0, 1).astype(np.float32)
    return digit, _doubts(ink, boxes)


def _doubts(ink: NDArray[np.bool_], boxes: NDArray[np.intp]) -> tuple[str, ...]:
    """Return warnings about a frame, or about several shapes.

    The shapes are side by side or above each other. `boxes` (parts, 4) are the top, bottom, left and right of
    the ink's connected parts. A 5 may be drawn with a bar apart from its body; a second digit is about as
    tall as the first.
    """
    top, bottom, left, right = boxes.T
    largest = int(np.argmax((bottom - top) * (right - left)))
    if _has_frame(ink, boxes, largest):
        return (FRAME_WARNING,)
    tall = int(np.argmax(bottom - top))
    is_apart = (left >= right[tall]) | (right <= left[tall]) | (top >= bottom[tall]) | (bottom <= top[tall])
    is_shape = is_apart & (bottom - top >= SHAPE_HEIGHT * (bottom - top)[tall])
    return (SHAPES_WARNING,) if is_shape.any() else ()


def _has_frame(ink: NDArray[np.bool_], boxes: NDArray[np.intp], largest: int) -> bool:
    """Return whether a part is a frame.

    A frame has ink along all four sides, and holds another part or fills the picture.
    """
    top, bottom, left, right = boxes[largest]
    part = ink[top:bottom, left:right]
    band = max(1, min(part.shape) // 20)
    sides = part[:band].any(0), part[-band:].any(0), part[:, :band].any(1), part[:, -band:].any(1)
    if min(side.mean() for side in sides) < FRAME_SIDE:
        return False
    tops, bottoms, lefts, rights = boxes.T
    is_inside = (tops > top) & (bottoms < bottom) & (lefts > left) & (rights < right)
    fills = min(part.shape[0] / ink.shape[0], part.shape[1] / ink.shape[1]) > FILLED_SHARE
    return bool(is_inside.any()) or fills


def _subtract_background(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return each pixel's signal, and the noise (sigma).

    The signal is the difference from the background, positive for ink.
    """
    background, noise = _background(grey)
    signal: NDArray[np.float32] = grey - background
    if (signal**3).sum(dtype=np.float64) < 0:  # noise is symmetric, ink is not
        signal = -signal
    return signal, noise


def _background(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return the background, and the noise (sigma).

    The background is a quadratic surface (the falloff of a lamp or a lens), fitted to the border. The
    fit is repeated without outliers, because ink may touch the border. A drawing's border is flat, which
    needs no fit: that would take three quarters of the time.
    """
    border = _border(*grey.shape)
    values = grey[border]
    residuals = values - np.median(values)
    if not residuals.any():
        return values[:1], 0.0
    rows, columns = (np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in grey.shape)
    y, x = np.broadcast_arrays(rows[:, None], columns)
    terms = np.stack([np.ones_like(x), y, x, y * x, y * y, x * x], axis=-1).astype(np.float32)
    border_terms = terms[border]
    for _ in range(3):
        inliers = np.abs(residuals) <= 3 * _robust_sigma(residuals) + MIN_CONTRAST
        coefficients = np.linalg.lstsq(border_terms[inliers], values[inliers], rcond=None)[0]
        residuals = values - border_terms @ coefficients
    background: NDArray[np.float32] = terms @ coefficients
    return background, _robust_sigma(residuals)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a mask's bounding box: rows and columns."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _border(height: int, width: int) -> NDArray[np.bool_]:
    """Mark a picture's edge.

    It is a fiftieth of the shorter side, at least one pixel.
    """
    thickness = max(1, min(height, width) // 50)
    border = np.ones((height, width), np.bool_)
    border[thickness:-thickness, thickness:-thickness] = False
    return border


def _robust_sigma(values: NDArray[np.float32]) -> float:
    """Estimate the standard deviation from the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return Otsu's threshold, which maximizes between-class variance.

    Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076.
    """
    counts, edges = np.histogram(values, bins=256)
    below = np.cumsum(counts)[:-1].astype(np.float64)
    sums = np.cumsum(counts * edges[:-1])
    above = values.size - below
    split = (below > 0) & (above > 0)
    if not split.any():
        return float(values.min())
    means_apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(np.where(split, below * above * means_apart**2, -1))])


def _large_parts(
    mask: NDArray[np.bool_], strong: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return a mask's large parts, and their boxes.

    Parts are 8-connected; large ones have at least `MIN_PART` of the largest part's strong pixels. `strong`
    is a subset of `mask` with at least one True. The boxes are (parts, 4) with top, bottom, left and right.
    """
    rows, columns = mask.shape
    stride = columns + 2  # two empty columns, so that a run never touches the end of the row above
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
    kept = weights[part] >= max(1.0, MIN_PART * weights.max())
    changes = np.zeros(flat.size, np.int8)
    changes[starts[kept]] = 1
    changes[ends[kept]] = -1
    large: NDArray[np.bool_] = np.cumsum(changes, dtype=np.int8).reshape(rows, stride)[:, :columns] > 0
    return large, _boxes(part[kept], starts[kept], ends[kept], stride)


def _boxes(
    part: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp], stride: int
) -> NDArray[np.intp]:
    """Return parts' top, bottom, left and right (parts, 4).

    `part` is each run's part.
    """
    order = np.argsort(part, kind="stable")
    first = np.flatnonzero(np.diff(part[order], prepend=-1))
    rows, left = np.divmod(starts[order], stride)
    right = left + (ends - starts)[order]
    lowest, highest = np.minimum.reduceat, np.maximum.reduceat
    sides = lowest(rows, first), highest(rows, first) + 1, lowest(left, first), highest(right, first)
    return np.stack(sides, axis=1)


def _connect(nodes: int, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the smallest node connected to each node.

    The graph has edges left[i]-right[i].
    """
    smallest = np.arange(nodes)
    while True:
        lower = np.minimum(smallest[left], smallest[right])
        new = smallest.copy()
        np.minimum.at(new, smallest[left], lower)
        np.minimum.at(new, smallest[right], lower)
        while not np.array_equal(new, new[new]):
            new = new[new]
        if np.array_equal(new, smallest):
            return smallest
        smallest = new


def _fit(ink: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize ink into height x width pixels.

    It is anti-aliased, and keeps its aspect ratio.
    """
    scale = min(height / ink.shape[0], width / ink.shape[1])
    size = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    resized = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)).clip(0, None)
    peak = float(np.percentile(resized[resized >= resized.max() / 2], 75))  # resizing fades a thin stroke
    fitted: NDArray[np.float32] = (resized / peak).clip(0, 1)
    return fitted


def _centre(ink: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Centre ink by its mass on a black image.

    It moves by whole pixels and stays inside.
    """
    tops = []
    for axis, size in enumerate((height, width)):
        masses = ink.sum(1 - axis, dtype=np.float64)
        centre = float(masses @ np.arange(masses.size)) / float(masses.sum())
        top = round(size / 2 - centre, 6)  # a symmetric digit is halfway, whatever the order of the sums
        tops.append(min(max(round(top), 0), size - masses.size))
    image = np.zeros((height, width), np.uint8)
    image[tops[0] : tops[0] + ink.shape[0], tops[1] : tops[1] + ink.shape[1]] = (ink * 255).round()
    return image
