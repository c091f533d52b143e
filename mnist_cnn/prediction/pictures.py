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
from mnist_cnn.prediction.ink import MIN_CONTRAST, border_of, bounding_box, find_ink

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
CARD_SHARE = 0.7  # share of opaque pixels above which a transparent picture is a card, not bare ink
HALF = 128  # of the 256 levels of alpha or grey

PICTURE_HINT = "give a PNG or JPEG picture of one digit"
SIZE_HINT = "make it smaller; 1000 pixels a side are plenty for one digit"


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
    uneven or noisy, or on a light sheet that lies on a dark surface, or the reverse. Errors call an open file
    by its `name`.

    A picture of more than `max_pixels` is refused. The image is uint8 (height, width), light ink on black.

    Raises:
        DataError: the picture is missing, damaged, too large or blank.
    """
    name = _name_of(picture)
    grey = _read_grey(picture, name, max_pixels)  # (rows, columns) of the picture
    found = find_ink(grey)
    if found is None:
        hint = "give a picture of one digit with some contrast and a margin around it"
        raise DataError(f"{name} is blank: nothing in it stands out from its background", hint)
    ink, found_warnings = found
    fitted = _fit(ink, max(1, round(INK_BOX * height)), max(1, round(INK_BOX * width)))
    return Prepared(_centre(fitted, height, width), found_warnings)


def read_whole(
    picture: PictureFile, size: tuple[int, int] | None = None, *, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Read a whole picture's grey levels, upright, uint8 (height, width).

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

    Levels are from 0 to 255; deeper ones are stretched to that. The result has about `MAX_PIXELS` at most. A
    `size` lets a large JPEG file be decoded at about twice that.
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
    box = bounding_box(opaque)
    edge = border_of(opaque[box])
    is_card = opaque[box].mean() > CARD_SHARE and np.ptp(grey[opaque].astype(int)) > MIN_CONTRAST
    is_dark = np.average(grey, weights=alpha) < HALF
    backdrop = float(np.median(grey[box][edge])) if is_card else 255.0 if is_dark else 0.0
    share = alpha / np.float32(255)
    return Image.fromarray((grey * share + backdrop * (1 - share)).round().astype(np.uint8))


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
