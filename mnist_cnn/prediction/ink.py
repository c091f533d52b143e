"""Finds the sheet that a digit is written on, and separates the ink from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnist_cnn.prediction.parts import large_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_CONTRAST = 8.0  # grey levels of 255 between ink and background; less is paper or noise
MIN_INK = 0.2  # share of the contrast; JPEG ripples and the blur of enlarging lie below it
MAX_BLUR = 3.0  # times the ink's area; anything fainter and larger is a shadow
MIN_PART = 0.03  # share of the largest part of the ink; a smaller part is dust
SHAPE_HEIGHT = 0.5  # share of the tallest part's height; a lower part beside it is a stroke of the digit
FRAME_SIDE = 0.8  # share of each side of a frame that has ink; the sides of a round digit have less
MAX_EDGE = 0.8  # share of the picture's edge; what has more of it is the background of the whole picture
MIN_SHEET = 0.05  # share of the picture
MIN_BOX = 0.9  # share of the box around a sheet that the sheet fills; an 8 fills up to 0.89, most digits less
INKED = (0.003, 0.4)  # share of a sheet that is ink; a digit without a sheet has large holes or none
MIN_STEP = 0.4  # share of the ink's contrast by which a sheet stands out from its surround; a shadow has less

SHAPES_WARNING = "the picture holds several shapes, which were read as one digit; crop it to one"
FRAME_WARNING = "the picture has a frame, which was read as a part of the digit; crop it"


def find_ink(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
    """Return the cropped ink in [0, 1], and warnings.

    None if the picture is blank. The sheet's border shows the background, so the polarity need not be
    known. Two thresholds find the ink. The higher one (Otsu's) decides which connected parts are ink and
    which are dust; the lower one decides how far those parts reach.
    """
    signal, noise = _subtract_background(grey, _find_sheet(grey))
    candidates = signal[signal > max(4 * noise, MIN_CONTRAST / 2)]
    if not candidates.size:
        return None
    threshold = otsu(candidates)
    contrast = float(np.percentile(candidates[candidates >= threshold], 90))
    if contrast < max(MIN_CONTRAST, 6 * noise):
        return None
    low = min(threshold, max(MIN_INK * contrast, 4 * noise))
    strong = signal >= threshold
    if np.count_nonzero(signal >= low) > MAX_BLUR * np.count_nonzero(strong):
        low = threshold
    ink, boxes = large_parts(signal >= low, strong, MIN_PART)
    box = bounding_box(ink)
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

    A frame has ink along all four sides, and holds another part.
    """
    top, bottom, left, right = boxes[largest]
    part = ink[top:bottom, left:right]
    band = max(1, min(part.shape) // 20)
    sides = part[:band].any(0), part[-band:].any(0), part[:, :band].any(1), part[:, -band:].any(1)
    if min(side.mean() for side in sides) < FRAME_SIDE:
        return False
    tops, bottoms, lefts, rights = boxes.T
    is_inside = (tops > top) & (bottoms < bottom) & (lefts > left) & (rights < right)
    return bool(is_inside.any())


def _find_sheet(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark the paper on a desk, or the board in a frame; the whole picture if no such sheet lies in it."""
    light = grey > otsu(grey.ravel())
    edge = border_of(np.ones_like(light), 1)
    for side in (light, ~light):
        if side.any() and side[edge].mean() <= MAX_EDGE:
            sheet, _ = large_parts(side, side, share=1.0)
            outline = _fill(sheet)
            if _is_sheet(grey, sheet, outline):
                return _shrink(outline, _margin(outline))
    return np.ones_like(light)


def _is_sheet(grey: NDArray[np.float32], sheet: NDArray[np.bool_], outline: NDArray[np.bool_]) -> bool:
    """Return whether an outline is like a rectangle with ink on it, and stands out from its surround."""
    ink = outline & ~sheet
    inked = np.count_nonzero(ink) / np.count_nonzero(outline)
    if outline.mean() < MIN_SHEET or not INKED[0] <= inked <= INKED[1]:
        return False
    if np.count_nonzero(outline) < MIN_BOX * _box_area(outline):
        return False
    margin = _margin(outline)
    around = ~_shrink(~outline, margin, beyond=True) & ~outline
    within = border_of(outline, margin) & sheet
    if not around.any() or not within.any():
        return False
    paper = np.median(grey[within])
    return bool(abs(np.median(grey[around]) - paper) >= MIN_STEP * abs(np.median(grey[ink]) - paper))


def _fill(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the pixels that have the part on all four sides."""
    filled = np.ones_like(part)
    for axis in (0, 1):
        before = np.logical_or.accumulate(part, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(part, axis), axis), axis)
        filled &= before & after
    return filled


def _box_area(outline: NDArray[np.bool_]) -> float:
    """Return the area of the smallest box around an outline, upright or turned."""
    rows = np.flatnonzero(outline.any(1))
    left, right = outline[rows].argmax(1), outline.shape[1] - 1 - outline[rows, ::-1].argmax(1)
    corners = np.concatenate([left + 1j * rows, right + 1j * rows])
    turned = corners * np.exp(1j * np.radians(np.arange(0, 90, 2)))[:, None]
    return float(((np.ptp(turned.real, 1) + 1) * (np.ptp(turned.imag, 1) + 1)).min())


def _subtract_background(
    grey: NDArray[np.float32], sheet: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], float]:
    """Return each pixel's signal, and the noise (sigma).

    The signal is the difference from the background, positive for ink, and zero outside the sheet.
    """
    background, noise = _background(grey, border_of(sheet))
    signal: NDArray[np.float32] = np.where(sheet, grey - background, np.float32(0))
    if (signal**3).sum(dtype=np.float64) < 0:  # noise is symmetric, ink is not
        signal = -signal
    return signal, noise


def _background(grey: NDArray[np.float32], border: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Return the background, and the noise (sigma).

    The background is a quadratic surface (the falloff of a lamp or a lens), fitted to the border. The
    fit is repeated without outliers, because ink may touch the border. A drawing's border is flat, which
    needs no fit: that would take three quarters of the time.
    """
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


def _robust_sigma(values: NDArray[np.float32]) -> float:
    """Estimate the standard deviation from the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def otsu(values: NDArray[np.float32]) -> float:
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


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a mask's bounding box: rows and columns."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _margin(sheet: NDArray[np.bool_]) -> int:
    """Return a fiftieth of a sheet's shorter side, at least one pixel."""
    rows, columns = bounding_box(sheet)
    return max(1, int(min(rows.stop - rows.start, columns.stop - columns.start)) // 50)


def border_of(sheet: NDArray[np.bool_], thickness: int | None = None) -> NDArray[np.bool_]:
    """Mark the pixels along a sheet's edge; the thickness is the sheet's margin unless it is given."""
    return sheet & ~_shrink(sheet, thickness or _margin(sheet))


def _shrink(mask: NDArray[np.bool_], by: int, *, beyond: bool = False) -> NDArray[np.bool_]:
    """Keep the pixels that have the mask at a distance on all four sides; outside the picture is `beyond`."""
    padded = np.pad(mask, by, constant_values=beyond)
    inner, before, after = slice(by, -by), slice(None, -2 * by), slice(2 * by, None)
    sides = (before, inner), (after, inner), (inner, before), (inner, after)
    shrunk: NDArray[np.bool_] = np.logical_and.reduce([mask, *(padded[side] for side in sides)])
    return shrunk
