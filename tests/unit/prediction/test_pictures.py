"""Any picture of a digit is converted to MNIST's form; a bad file is refused by name, with a hint."""

from __future__ import annotations

import gzip
import importlib.resources
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_cnn.errors import DataError
from mnist_cnn.prediction import ink, pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 12.0  # mean absolute difference of 255 levels; an image differs from other digits by 45
DIGITS = range(10)


def prepare(picture: Path, height: int, width: int) -> NDArray[np.uint8]:
    return pictures.prepare(picture, height, width).image


def mnist_images(count: int) -> NDArray[np.uint8]:
    path = importlib.resources.files("mnist_cnn").joinpath("data", "mnist", "t10k-images-idx3-ubyte.gz")
    with path.open("rb") as packed, gzip.open(packed) as file:
        return np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16).reshape(-1, 28, 28)


IMAGES = mnist_images(1000)


def enlarge(image: NDArray[np.uint8], times: int = 5) -> NDArray[np.uint8]:
    """Draw an image larger and off-centre on a canvas of 50 x 40 of its own pixels; light on dark."""
    digit = Image.fromarray(image).resize((28 * times, 28 * times), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (50 * times, 40 * times))
    canvas.paste(digit, (19 * times, 4 * times))
    return np.asarray(canvas)


def save(pixels: NDArray[Any], path: Path) -> Path:
    Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8)).save(path)
    return path


def difference(prepared: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    return float(np.abs(prepared.astype(float) - original).mean())


def mean_difference(path: Path, change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> float:
    """Return how far ten digits are from MNIST's if `change` is done to each before it is saved."""
    prepared = [prepare(save(change(enlarge(IMAGES[index])), path), 28, 28) for index in DIGITS]
    return float(np.mean([difference(prepared[index], IMAGES[index]) for index in DIGITS]))


def noisy_paper(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    """Return light paper that is lit from one side, with a sensor's noise."""
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)
    noise = np.random.default_rng(seed).normal(0, 8, (rows, columns))
    return np.asarray(180 + 25 * x + 20 * y - 15 * x * x + noise)


def examples(count: int) -> settings:
    """Draw the same examples in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


# Ink and background


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("inverted", [False, True], ids=["light on dark", "dark on light"])
def test_a_redrawn_mnist_image_is_restored(tmp_path: Path, suffix: str, *, inverted: bool) -> None:
    path = tmp_path / f"digit.{suffix}"
    assert mean_difference(path, lambda drawn: 255 - drawn if inverted else drawn) < CLOSE
    assert np.mean([difference(IMAGES[0], IMAGES[index]) for index in DIGITS[1:]]) > 3 * CLOSE


def test_an_mnist_image_is_unchanged(tmp_path: Path) -> None:
    prepared = [prepare(save(IMAGES[index], tmp_path / "digit.png"), 28, 28) for index in DIGITS]
    assert np.median([difference(prepared[index], IMAGES[index]) for index in DIGITS]) < 3


def test_an_uneven_and_noisy_background_is_ignored(tmp_path: Path) -> None:
    seeds = iter(DIGITS)

    def photo(drawn: NDArray[np.uint8]) -> NDArray[Any]:
        return noisy_paper(drawn.shape[0], drawn.shape[1], next(seeds)) - 0.45 * drawn

    assert mean_difference(tmp_path / "photo.jpg", photo) < CLOSE


def test_dust_is_ignored(tmp_path: Path) -> None:
    drawn = 255 - enlarge(IMAGES[0])
    clean = prepare(save(drawn, tmp_path / "clean.png"), 28, 28)
    for y, x in ((3, 3), (195, 6), (15, 240), (190, 235)):
        drawn[y : y + 2, x : x + 2] = 0
    assert np.array_equal(prepare(save(drawn, tmp_path / "dusty.png"), 28, 28), clean)


def test_a_hard_shadow_is_ignored(tmp_path: Path) -> None:
    def photo(drawn: NDArray[np.uint8]) -> NDArray[Any]:
        y, x = np.linspace(-1, 1, drawn.shape[0])[:, None], np.linspace(-1, 1, drawn.shape[1])
        return np.asarray(np.where(x + y > 0.3, 150, 190) - 0.5 * drawn)

    assert mean_difference(tmp_path / "shadow.png", photo) < 2 * CLOSE


@pytest.mark.parametrize("ink", [0, 255], ids=["black ink", "white ink"])
def test_ink_on_a_transparent_background_is_found(tmp_path: Path, ink: int) -> None:
    drawn = enlarge(IMAGES[3])
    pixels = np.full((*drawn.shape, 4), ink, np.uint8)
    pixels[..., 3] = drawn
    prepared = prepare(save(pixels, tmp_path / "transparent.png"), 28, 28)
    assert np.array_equal(prepared, prepare(save(drawn, tmp_path / "opaque.png"), 28, 28))


def test_a_card_with_transparent_corners_is_read_as_a_card(tmp_path: Path) -> None:
    drawn = 255 - enlarge(IMAGES[3])
    pixels = np.stack([drawn, drawn, drawn, np.full_like(drawn, 255)], axis=-1)
    for rows in (slice(0, 10), slice(-10, None)):
        for columns in (slice(0, 10), slice(-10, None)):
            pixels[rows, columns] = 0
    prepared = prepare(save(pixels, tmp_path / "card.png"), 28, 28)
    assert np.array_equal(prepared, prepare(save(drawn, tmp_path / "opaque.png"), 28, 28))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16"])
def test_every_colour_mode_gives_the_same_digit(tmp_path: Path, mode: str) -> None:
    drawn = np.where(enlarge(IMAGES[4]) > 127, 0, 255).astype(np.uint8)
    path = tmp_path / ("digit.jpg" if mode == "CMYK" else "digit.png")
    if mode == "I;16":
        Image.fromarray(drawn.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(drawn).convert(mode).save(path, quality=100)
    expected = prepare(save(drawn, tmp_path / "grey.png"), 28, 28)
    assert difference(prepare(path, 28, 28), expected) < 1


def test_a_picture_is_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    upright = Image.fromarray(255 - enlarge(IMAGES[2]))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to see it upright, rotate it by 270 degrees counter-clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected = prepare(tmp_path / "upright.png", 28, 28)
    assert np.array_equal(prepare(tmp_path / "turned.png", 28, 28), expected)


@examples(10)
@given(index=st.integers(0, len(IMAGES) - 1), times=st.integers(1, 6))
def test_polarity_does_not_matter(tmp_path: Path, index: int, times: int) -> None:
    drawn = enlarge(IMAGES[index], times)
    light = prepare(save(drawn, tmp_path / "light.png"), 28, 28)
    dark = prepare(save(255 - drawn, tmp_path / "dark.png"), 28, 28)
    assert difference(light, dark) < 0.1


@examples(10)
@given(index=st.integers(0, len(IMAGES) - 1), times=st.integers(3, 5))
def test_size_does_not_matter(tmp_path: Path, index: int, times: int) -> None:
    drawn = np.where(enlarge(IMAGES[index], 2) > 127, 255, 0)
    larger = drawn.repeat(times, 0).repeat(times, 1)
    small = prepare(save(drawn, tmp_path / "small.png"), 28, 28)
    large = prepare(save(larger, tmp_path / "large.png"), 28, 28)
    shifted = [np.roll(large, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert min(difference(small, image) for image in shifted) < CLOSE  # positions are rounded to pixels


@examples(40)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 2**32 - 1))
def test_any_pixels_are_prepared_or_refused(tmp_path: Path, shape: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape)
    path = save(pixels, tmp_path / "noise.png")
    try:
        prepared = prepare(path, 28, 28)
    except DataError as error:
        assert "blank" in error.message  # noqa: PT017 - refusing is one of two correct results
    else:
        assert prepared.shape == (28, 28)
        assert prepared.max() == 255


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (2, 9000), (9000, 2)])
def test_a_line_of_pixels_is_prepared(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape)
    pixels[shape[0] // 2, shape[1] // 2] = 255
    assert prepare(save(pixels, tmp_path / "line.png"), 28, 28).max() > 0


# Paper on a desk, or a board in a frame


def on_a_desk(drawn: NDArray[np.uint8], seed: int, *, turn: float = 0) -> NDArray[np.float64]:
    """Return a photo of dark ink on light paper, turned by some degrees, on a dark desk under a lamp."""
    paper = Image.fromarray(np.pad((215 - 0.75 * drawn).astype(np.float32), 10, constant_values=215))
    size = np.array(paper.size) * 8 // 5
    photo = Image.new("F", tuple(size), 60)
    photo.paste(paper, tuple((size - paper.size) * (3, 5) // 8))
    levels = np.asarray(photo.rotate(turn, Image.Resampling.BILINEAR, fillcolor=60), np.float64)
    rows, columns = np.linspace(-1, 1, levels.shape[0])[:, None], np.linspace(-1, 1, levels.shape[1])
    lamp = 1 + 0.1 * rows - 0.08 * columns
    return np.clip(levels * lamp + np.random.default_rng(seed).normal(0, 4, levels.shape), 0, 255)


@pytest.mark.parametrize("inverted", [False, True], ids=["paper on a desk", "board in a frame"])
@pytest.mark.parametrize("times", [2, 5, 12])
@pytest.mark.parametrize("kind", ["grey", "colour", "16 bits"])
def test_a_digit_on_a_sheet_is_read_without_its_surround(
    tmp_path: Path, kind: str, times: int, *, inverted: bool
) -> None:
    path = tmp_path / ("photo.jpg" if kind == "colour" else "photo.png")
    differences = []
    for index in DIGITS:
        levels = on_a_desk(enlarge(IMAGES[index], times), index, turn=(-3, 0, 3)[index % 3])
        levels = 255 - levels if inverted else levels
        if kind == "16 bits":
            Image.fromarray((levels * 257).astype(np.uint16)).save(path)
        else:
            save(np.stack([levels, levels * 0.95, levels * 0.85], -1) if kind == "colour" else levels, path)
        prepared = pictures.prepare(path, 28, 28)
        assert prepared.warnings == ()
        differences.append(difference(prepared.image, IMAGES[index]))
    assert np.mean(differences) < 1.5 * CLOSE


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("inverted", [False, True], ids=["light on dark", "dark on light"])
def test_a_frame_at_the_edge_is_ignored(tmp_path: Path, width: int, *, inverted: bool) -> None:
    drawn = framed(ZERO, 0, width)
    picture = pictures.prepare(save(255 - drawn if inverted else drawn, tmp_path / "framed.png"), 28, 28)
    assert picture.warnings == ()
    assert difference(picture.image, prepare(save(ZERO, tmp_path / "zero.png"), 28, 28)) < 1


# More than one digit


def beside(*parts: NDArray[np.uint8], axis: int = 1) -> NDArray[np.uint8]:
    return np.concatenate(parts, axis)


def framed(drawn: NDArray[np.uint8], margin: int, width: int = 4) -> NDArray[np.uint8]:
    """Draw a frame around what is drawn, `margin` pixels from the picture's edge."""
    picture = np.pad(drawn, margin + 20)
    inner = slice(margin + width, -margin - width)
    frame = np.full_like(picture, 255)
    frame[inner, inner] = picture[inner, inner]
    outer = np.zeros_like(picture)
    kept = slice(margin, -margin or None)
    outer[kept, kept] = frame[kept, kept]
    return outer


SEVEN, TWO, ONE, ZERO = (enlarge(IMAGES[index]) for index in range(4))
DOUBTFUL = {
    "two digits": (beside(SEVEN, TWO), ink.SHAPES_WARNING),
    "three digits": (beside(ONE, ZERO, ONE), ink.SHAPES_WARNING),
    "a digit above another": (beside(SEVEN, TWO, axis=0), ink.SHAPES_WARNING),
    "a frame": (framed(TWO, 40), ink.FRAME_WARNING),
}


@pytest.mark.parametrize(("drawn", "warning"), DOUBTFUL.values(), ids=DOUBTFUL)
@pytest.mark.parametrize("inverted", [False, True], ids=["light on dark", "dark on light"])
def test_a_picture_of_more_than_a_digit_gets_a_warning(
    tmp_path: Path, drawn: NDArray[np.uint8], warning: str, *, inverted: bool
) -> None:
    path = save(255 - drawn if inverted else drawn, tmp_path / "doubtful.png")
    assert pictures.prepare(path, 28, 28).warnings == (warning,)


def test_pictures_of_one_digit_get_no_warning(tmp_path: Path) -> None:
    drawn = (enlarge(image, 3) for image in IMAGES[:200])
    warned = [pictures.prepare(save(each, tmp_path / "one.png"), 28, 28).warnings for each in drawn]
    assert sum(map(bool, warned)) <= 2


# Size and position


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (14, 14), (28, 56), (64, 20), (1, 1)])
def test_the_ink_fills_its_share_of_any_image_size(tmp_path: Path, height: int, width: int) -> None:
    image = prepare(save(enlarge(IMAGES[0]), tmp_path / "seven.png"), height, width)
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    box = max(1, round(height * 20 / 28)), max(1, round(width * 20 / 28))
    ink = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert image.shape == (height, width)
    assert ink[0] <= box[0]
    assert ink[1] <= box[1]
    assert ink[0] == box[0] or ink[1] == box[1]


def test_the_centre_of_mass_is_in_the_middle(tmp_path: Path) -> None:
    for index in DIGITS:
        image = prepare(save(enlarge(IMAGES[index]), tmp_path / "digit.png"), 28, 28).astype(float)
        centre = [image.sum(1 - axis) @ np.arange(28) / image.sum() for axis in (0, 1)]
        assert centre == pytest.approx([14, 14], abs=0.51)


def test_a_large_photo_is_prepared(tmp_path: Path) -> None:
    photo = np.asarray(Image.fromarray(255 - enlarge(IMAGES[0])).resize((3000, 2400)))
    assert difference(prepare(save(photo, tmp_path / "photo.jpg"), 28, 28), IMAGES[0]) < 4 * CLOSE


# Bad pictures


def refusal(path: Path) -> DataError:
    """Return the error with which `prepare` refuses a picture; it names the file and has a hint."""
    with pytest.raises(DataError) as caught:
        prepare(path, 28, 28)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3
    return caught.value


def test_a_missing_picture_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "seven.png").message
    assert "is a folder" in refusal(tmp_path).message


@pytest.mark.parametrize("content", [b"", b"seven", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_not_a_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seven.png").write_bytes(content)
    assert "PNG or JPEG" in refusal(tmp_path / "seven.png").hint


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(enlarge(IMAGES[0]), tmp_path / f"seven.{suffix}")
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated" in refusal(path).message


@examples(40)
@given(
    place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), suffix=st.sampled_from(["png", "jpg"])
)
def test_a_damaged_picture_is_prepared_or_refused(
    tmp_path: Path, place: float, byte: int, suffix: str
) -> None:
    path = save(enlarge(IMAGES[0], 2), tmp_path / f"seven.{suffix}")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = byte
    path.write_bytes(content)
    try:
        assert prepare(path, 28, 28).shape == (28, 28)
    except DataError as error:
        assert str(path) in error.message  # noqa: PT017 - refusing is one of two correct results


@pytest.mark.parametrize("excess", [1, 3], ids=["Pillow warns", "Pillow refuses"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int
) -> None:
    path = save(enlarge(IMAGES[0]), tmp_path / "bomb.png")
    path.write_bytes(path.read_bytes()[:-300])  # decoding would report "truncated"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 250 * 200 // excess - 1)
    assert "too large" in refusal(path).message


BLANK = {
    **{shade: np.full((30, 40), value) for shade, value in (("black", 0), ("grey", 127), ("white", 255))},
    "one pixel": np.array([[200]]),
    "transparent": np.zeros((20, 20, 4)),
    "noisy paper": noisy_paper(300, 400, 0),
}


@pytest.mark.parametrize("pixels", BLANK.values(), ids=BLANK)
def test_a_blank_picture_is_refused(tmp_path: Path, pixels: NDArray[Any]) -> None:
    suffix = "png" if pixels.ndim == 3 else "jpg"
    assert "blank" in refusal(save(pixels, tmp_path / f"blank.{suffix}")).message


def test_no_warning_of_pillow_reaches_the_user(tmp_path: Path) -> None:
    palette = Image.fromarray(enlarge(IMAGES[0])).convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        prepare(tmp_path / "palette.png", 28, 28)
    assert not seen
