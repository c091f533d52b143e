"""Promises of predict: any picture of a digit is prepared as MNIST was; a bad file is named, with a hint."""

from __future__ import annotations

import gzip
import importlib.resources
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mnist_cnn.errors import DataError
from mnist_cnn.prediction.predictor import load_predictor, prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 12.0  # mean absolute difference, of 255; an image against the average other one differs by 45
DIGITS = range(20)


def mnist(name: str, offset: int) -> NDArray[np.uint8]:
    packed = importlib.resources.files("mnist_cnn").joinpath("data", "mnist", name).read_bytes()
    return np.frombuffer(gzip.decompress(packed), np.uint8, offset=offset)


IMAGES = mnist("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)


def enlarged(image: NDArray[np.uint8], times: int = 10) -> NDArray[np.uint8]:
    """Draw an image larger and off-centre on a canvas of 50 x 40 of its own pixels; light on dark."""
    digit = Image.fromarray(image).resize((28 * times, 28 * times), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (50 * times, 40 * times))
    canvas.paste(digit, (19 * times, 4 * times))
    return np.asarray(canvas)


def saved(pixels: NDArray[Any], path: Path) -> Path:
    Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8)).save(path)
    return path


def difference(prepared: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    return float(np.abs(prepared.astype(float) - original).mean())


def background(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    """Return light paper, lit from one side, as a noisy sensor sees it."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    noise = np.random.default_rng(seed).normal(0, 8, (rows, columns))
    return np.asarray(180 + 25 * x + 20 * y - 15 * x * x + noise)


def classifier(path: Path, *, shape: tuple[Any, ...] = ("batch", 28, 28, 1), softmax: bool = True) -> Path:
    """Write a model that takes the mean of rows 0-13 and of rows 14-27 (of columns, if channels first)."""
    height, width = (shape[2], shape[3]) if shape[1] == 1 else (shape[1], shape[2])
    weights = np.zeros((height * width, 2), np.float32)
    weights[: height * width // 2, 0] = weights[height * width // 2 :, 1] = 20 / (height * width)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits" if softmax else "out"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["out"], axis=1))
    return write(path, nodes, shape, ("batch", 2), [numpy_helper.from_array(weights, "weights")])


def write(  # noqa: PLR0913, PLR0917 - what a graph is made of
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


def refusal(path: Path) -> DataError:
    """Return what `prepare` says of a bad picture: it names the file, and a way out."""
    with pytest.raises(DataError) as caught:
        prepare(path, 28, 28)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("inverted", [False, True], ids=["light on dark", "dark on light"])
def test_a_redrawn_mnist_image_is_prepared_back_to_itself(
    tmp_path: Path, suffix: str, *, inverted: bool
) -> None:
    off = []
    for index in DIGITS:
        drawn = enlarged(IMAGES[index])
        path = saved(255 - drawn if inverted else drawn, tmp_path / f"{index}.{suffix}")
        off.append(difference(prepare(path, 28, 28), IMAGES[index]))
    assert np.mean(off) < CLOSE
    assert np.mean([difference(IMAGES[0], IMAGES[index]) for index in DIGITS[1:]]) > 3 * CLOSE


def test_an_mnist_image_itself_is_left_as_it_is(tmp_path: Path) -> None:
    off = [difference(prepare(saved(IMAGES[n], tmp_path / "as-is.png"), 28, 28), IMAGES[n]) for n in DIGITS]
    assert np.median(off) < 3


def test_an_uneven_and_noisy_background_is_tolerated(tmp_path: Path) -> None:
    off = []
    for index in DIGITS:
        drawn = enlarged(IMAGES[index])
        photo = background(drawn.shape[0], drawn.shape[1], index) - 0.45 * drawn
        off.append(difference(prepare(saved(photo, tmp_path / "photo.jpg"), 28, 28), IMAGES[index]))
    assert np.mean(off) < CLOSE


def test_dust_does_not_count_as_ink(tmp_path: Path) -> None:
    drawn = 255 - enlarged(IMAGES[0])
    clean = prepare(saved(drawn, tmp_path / "clean.png"), 28, 28)
    for y, x in ((5, 5), (390, 12), (30, 480), (380, 470)):
        drawn[y : y + 4, x : x + 4] = 0
    assert np.array_equal(prepare(saved(drawn, tmp_path / "dusty.png"), 28, 28), clean)


def test_a_hard_shadow_does_not_count_as_ink(tmp_path: Path) -> None:
    off = []
    for index in DIGITS:
        drawn = enlarged(IMAGES[index])
        y, x = np.mgrid[-1 : 1 : drawn.shape[0] * 1j, -1 : 1 : drawn.shape[1] * 1j]
        paper = np.where(x + y > 0.3, 150, 190)
        off.append(difference(prepare(saved(paper - 0.5 * drawn, tmp_path / "s.png"), 28, 28), IMAGES[index]))
    assert np.mean(off) < 2 * CLOSE


@pytest.mark.parametrize("ink", [0, 255], ids=["black ink", "white ink"])
def test_ink_on_a_transparent_background_is_found_whatever_its_colour(tmp_path: Path, ink: int) -> None:
    drawn = enlarged(IMAGES[3])
    pixels = np.full((*drawn.shape, 4), ink, np.uint8)
    pixels[..., 3] = drawn
    prepared = prepare(saved(pixels, tmp_path / "transparent.png"), 28, 28)
    assert np.array_equal(prepared, prepare(saved(drawn, tmp_path / "opaque.png"), 28, 28))


def test_a_card_with_transparent_corners_is_read_as_a_card(tmp_path: Path) -> None:
    drawn = 255 - enlarged(IMAGES[3])
    pixels = np.stack([drawn, drawn, drawn, np.full_like(drawn, 255)], axis=-1)
    for rows in (slice(0, 20), slice(-20, None)):
        for columns in (slice(0, 20), slice(-20, None)):
            pixels[rows, columns] = 0
    prepared = prepare(saved(pixels, tmp_path / "card.png"), 28, 28)
    assert np.array_equal(prepared, prepare(saved(drawn, tmp_path / "opaque.png"), 28, 28))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16"])
def test_every_kind_of_colour_gives_the_same_digit(tmp_path: Path, mode: str) -> None:
    drawn = np.where(enlarged(IMAGES[4]) > 127, 0, 255).astype(np.uint8)
    path = tmp_path / ("digit.jpg" if mode == "CMYK" else "digit.png")
    if mode == "I;16":
        Image.fromarray(drawn.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(drawn).convert(mode).save(path, quality=100)
    expected = prepare(saved(drawn, tmp_path / "grey.png"), 28, 28)
    assert difference(prepare(path, 28, 28), expected) < 1


def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    upright = Image.fromarray(255 - enlarged(IMAGES[2]))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees counter-clockwise to see it upright
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected = prepare(tmp_path / "upright.png", 28, 28)
    assert np.array_equal(prepare(tmp_path / "turned.png", 28, 28), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 9999), times=st.integers(1, 8))
def test_polarity_does_not_matter(tmp_path: Path, index: int, times: int) -> None:
    drawn = enlarged(IMAGES[index], times)
    light = prepare(saved(drawn, tmp_path / "light.png"), 28, 28)
    dark = prepare(saved(255 - drawn, tmp_path / "dark.png"), 28, 28)
    assert difference(light, dark) < 0.1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 9999), times=st.integers(3, 12))
def test_size_does_not_matter(tmp_path: Path, index: int, times: int) -> None:
    drawn = np.where(enlarged(IMAGES[index], 3) > 127, 255, 0)
    larger = drawn.repeat(times, 0).repeat(times, 1)
    small = prepare(saved(drawn, tmp_path / "small.png"), 28, 28)
    large = prepare(saved(larger, tmp_path / "large.png"), 28, 28)
    shifted = [np.roll(large, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert min(difference(small, image) for image in shifted) < CLOSE  # rounding decides on whole pixels


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 2**32 - 1))
def test_any_pixels_are_prepared_or_refused(tmp_path: Path, shape: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape)
    path = saved(pixels, tmp_path / "noise.png")
    try:
        prepared = prepare(path, 28, 28)
    except DataError as error:
        assert "blank" in error.message  # noqa: PT017 - being refused is one of two right ends
    else:
        assert prepared.shape == (28, 28)
        assert prepared.max() == 255


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (2, 9000), (9000, 2)])
def test_a_line_of_pixels_is_prepared(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape)
    pixels[shape[0] // 2, shape[1] // 2] = 255
    assert prepare(saved(pixels, tmp_path / "line.png"), 28, 28).max() > 0


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (14, 14), (28, 56), (64, 20), (1, 1)])
def test_the_ink_fills_its_share_of_any_image_size(tmp_path: Path, height: int, width: int) -> None:
    image = prepare(saved(enlarged(IMAGES[0]), tmp_path / "seven.png"), height, width)
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    box = max(1, round(height * 20 / 28)), max(1, round(width * 20 / 28))
    ink = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert image.shape == (height, width)
    assert ink[0] <= box[0]
    assert ink[1] <= box[1]
    assert ink[0] == box[0] or ink[1] == box[1]


def test_the_centre_of_mass_is_in_the_middle(tmp_path: Path) -> None:
    for index in DIGITS:
        image = prepare(saved(enlarged(IMAGES[index]), tmp_path / "digit.png"), 28, 28).astype(float)
        centre = [image.sum(1 - axis) @ np.arange(28) / image.sum() for axis in (0, 1)]
        assert centre == pytest.approx([14, 14], abs=0.51)


def test_a_large_photo_is_prepared_as_well(tmp_path: Path) -> None:
    photo = np.asarray(Image.fromarray(255 - enlarged(IMAGES[0])).resize((4000, 3000)))
    assert difference(prepare(saved(photo, tmp_path / "photo.jpg"), 28, 28), IMAGES[0]) < 4 * CLOSE


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "seven.png").message


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path).message


@pytest.mark.parametrize("content", [b"", b"seven", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seven.png").write_bytes(content)
    assert "PNG or JPEG" in refusal(tmp_path / "seven.png").hint


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_named(tmp_path: Path, suffix: str) -> None:
    path = saved(enlarged(IMAGES[0]), tmp_path / f"seven.{suffix}")
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated" in refusal(path).message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), suffix=st.sampled_from(["png", "jpg"])
)
def test_a_damaged_picture_is_prepared_or_refused(
    tmp_path: Path, place: float, byte: int, suffix: str
) -> None:
    path = saved(enlarged(IMAGES[0], 2), tmp_path / f"seven.{suffix}")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = byte
    path.write_bytes(content)
    try:
        assert prepare(path, 28, 28).shape == (28, 28)
    except DataError as error:
        assert str(path) in error.message  # noqa: PT017 - being refused is one of two right ends


@pytest.mark.parametrize("excess", [1, 3], ids=["warned of", "refused"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int
) -> None:
    path = saved(enlarged(IMAGES[0]), tmp_path / "bomb.png")
    path.write_bytes(path.read_bytes()[:-300])  # decoding it would end in "truncated"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500 * 400 // excess - 1)
    assert "too large" in refusal(path).message


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_picture_is_refused(tmp_path: Path, level: int) -> None:
    assert "blank" in refusal(saved(np.full((30, 40), level), tmp_path / "blank.png")).message


def test_empty_noisy_paper_is_refused(tmp_path: Path) -> None:
    assert "blank" in refusal(saved(background(300, 400, 0), tmp_path / "paper.jpg")).message


def test_a_single_pixel_is_blank(tmp_path: Path) -> None:
    assert "blank" in refusal(saved(np.array([[200]]), tmp_path / "pixel.png")).message


def test_a_wholly_transparent_picture_is_blank(tmp_path: Path) -> None:
    assert "blank" in refusal(saved(np.zeros((20, 20, 4)), tmp_path / "glass.png")).message


def test_no_warning_of_pillow_reaches_the_user(tmp_path: Path) -> None:
    palette = Image.fromarray(enlarged(IMAGES[0])).convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        prepare(tmp_path / "palette.png", 28, 28)
    assert not seen


@pytest.mark.parametrize("shape", [("batch", 28, 28, 1), ("batch", 1, 28, 28), (None, 20, 30, 1)])
def test_either_channel_order_predicts_the_same(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx", shape=shape))
    size = (20, 30) if shape[1] == 20 else (28, 28)
    assert (predictor.height, predictor.width, predictor.classes) == (*size, 2)
    assert predictor.channels_first == (shape[1] == 1)
    images = np.zeros((2, *size), np.uint8)
    images[0, : size[0] // 2] = images[1, size[0] // 2 :] = 255
    probabilities = predictor(images)
    assert probabilities.dtype == np.float32
    high = 1 / (1 + np.exp(-10))  # pixels are scaled to [0, 1]: 10 against 0 before the softmax
    assert probabilities == pytest.approx(np.array([[high, 1 - high], [1 - high, high]]), abs=1e-6)


def test_many_images_are_predicted_as_one_by_one(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx"))
    together = predictor(IMAGES[:600])
    apart = np.concatenate([predictor(IMAGES[n : n + 1]) for n in range(600)])
    assert together == pytest.approx(apart, abs=1e-6)
    assert predictor(IMAGES[:0]).shape == (0, 2)


def test_files_are_predicted_in_their_order(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx"))
    heavy_top = np.zeros((60, 60))
    heavy_top[10:16, 10:50] = heavy_top[16:50, 28:32] = 255
    top = saved(heavy_top, tmp_path / "top.png")
    bottom = saved(heavy_top[::-1], tmp_path / "bottom.png")
    predictions = predictor.predict_files([bottom, top, bottom])
    for path, prediction in zip((bottom, top, bottom), predictions, strict=True):
        expected = predictor(prepare(path, 28, 28)[None])[0]
        assert prediction.probabilities == pytest.approx(tuple(expected))
        assert prediction.label == int(expected.argmax())
        assert prediction.probability == max(prediction.probabilities)
    assert predictions[0] == predictions[2] != predictions[1]
    assert predictor.predict_files([]) == []


def test_one_bad_picture_among_good_ones_is_named(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx"))
    good = saved(enlarged(IMAGES[0]), tmp_path / "good.png")
    with pytest.raises(DataError, match=r"missing\.png does not exist"):
        predictor.predict_files([good, tmp_path / "missing.png"])


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx"))
    with pytest.raises(DataError, match="28x28"):
        predictor(np.zeros((1, 32, 32), np.uint8))
    with pytest.raises(DataError, match="uint8"):
        predictor(np.zeros((1, 28, 28), np.float32))


def test_a_folder_and_its_model_file_are_the_same_model(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model.onnx")
    expected = load_predictor(model)(IMAGES[:3])
    assert np.array_equal(load_predictor(tmp_path)(IMAGES[:3]), expected)


def model_refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_predictor(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert "holds no model.onnx" in model_refusal(tmp_path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    assert "No such file" in model_refusal(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x08" * 50])
def test_a_file_that_is_no_model_is_named(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    assert "is not an ONNX model" in model_refusal(tmp_path / "bad.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    path = classifier(tmp_path / "half.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    assert "is not an ONNX model" in model_refusal(path)


@pytest.mark.parametrize(
    "shape", [("batch", 28, 28, 3), ("batch", 28, "width", 1), (1, 28, 28, 1), ("batch", 784), ()]
)
def test_a_model_of_other_input_is_refused(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    path = write(
        tmp_path / "other.onnx", [helper.make_node("Identity", ["image"], ["out"])], shape, shape, []
    )
    assert "does not classify single-channel images" in model_refusal(path)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    shape = ("batch", 28, 28, 1)
    nodes = [helper.make_node("Identity", ["image"], ["out"])]
    path = write(tmp_path / "double.onnx", nodes, shape, shape, [], TensorProto.DOUBLE)
    assert "tensor(double)" in model_refusal(path)


def test_a_model_with_other_output_is_refused(tmp_path: Path) -> None:
    shape = ("batch", 28, 28, 1)
    path = write(tmp_path / "same.onnx", [helper.make_node("Relu", ["image"], ["out"])], shape, shape, [])
    assert "is no classifier" in model_refusal(path)


def test_a_model_that_gives_logits_is_refused(tmp_path: Path) -> None:
    assert "no probabilities" in model_refusal(classifier(tmp_path / "logits.onnx", softmax=False))


def test_predicting_loads_neither_tensorflow_nor_matplotlib_and_prints_nothing(tmp_path: Path) -> None:
    model, picture = classifier(tmp_path / "half.onnx"), saved(enlarged(IMAGES[0]), tmp_path / "seven.png")
    program = f"""
import sys
from pathlib import Path
import mnist_cnn.prediction.predictor as predict
early = {{"numpy", "PIL", "onnxruntime"}} & set(sys.modules)
assert not early, early
predict.load_predictor(Path({str(model)!r})).predict_files([Path({str(picture)!r})])
heavy = {{"tensorflow", "keras", "matplotlib", "hydra"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
