"""The predictor loads only sound classifiers and predicts a picture's digit without TensorFlow."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.classifiers import SHAPE, classifier, letter_t, save, write_model
from helpers.records import write_receipt, write_result
from onnx import TensorProto, helper
from PIL import Image

from mnist_cnn.backend import Status
from mnist_cnn.errors import DataError
from mnist_cnn.prediction.pictures import prepare
from mnist_cnn.prediction.predictor import Predictor, load_predictor
from mnist_cnn.result import describe_content

if TYPE_CHECKING:
    from mnist_cnn.prediction.predictor import Picture, Pictures

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 28, 28), np.uint8)


def one_operator(path: Path, operator: str, shape: tuple[Any, ...], kind: int = TensorProto.FLOAT) -> Path:
    """Write a model of one operator, whose output has the shape of its input."""
    return write_model(path, [helper.make_node(operator, ["image"], ["out"])], shape, shape, [], kind)


# Predictions


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load_predictor(classifier(tmp_path / "half.onnx"))


@pytest.mark.parametrize("shape", [SHAPE, ("batch", 1, 28, 28), (None, 20, 30, 1)])
def test_both_channel_orders_predict_the_same(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    predictor = load_predictor(classifier(tmp_path / "half.onnx", shape=shape))
    size = (20, 30) if shape[1] == 20 else (28, 28)
    assert (predictor.height, predictor.width, predictor.classes) == (*size, 2)
    assert predictor.channels_first == (shape[1] == 1)
    images = np.zeros((2, *size), np.uint8)
    images[0, : size[0] // 2] = images[1, size[0] // 2 :] = 255
    probabilities = predictor(images)
    assert probabilities.dtype == np.float32
    high = 1 / (1 + np.exp(-10))  # pixels are scaled to [0, 1], so the logits are 10 and 0
    assert probabilities == pytest.approx(np.array([[high, 1 - high], [1 - high, high]]), abs=1e-6)


def test_many_images_get_the_same_predictions_as_single_ones(predictor: Predictor) -> None:
    single = np.concatenate([predictor(image[None]) for image in IMAGES])
    assert predictor(IMAGES) == pytest.approx(single, abs=1e-6)
    assert predictor(IMAGES[:0]).shape == (0, 2)


def test_files_are_predicted_in_order_and_bad_ones_named(tmp_path: Path, predictor: Predictor) -> None:
    top = save(letter_t(), tmp_path / "top.png")
    bottom = save(letter_t()[::-1], tmp_path / "bottom.png")
    predictions = predictor.predict([bottom, top, bottom])
    for path, prediction in zip((bottom, top, bottom), predictions, strict=True):
        expected = predictor(prepare(path, 28, 28).image)[0]
        assert prediction.probabilities == pytest.approx(tuple(expected))
        assert prediction.label == int(expected.argmax())
        assert prediction.probability == max(prediction.probabilities)
    assert predictions[0] == predictions[2] != predictions[1]
    assert predictor.predict([]) == []

    with pytest.raises(DataError, match=r"missing\.png does not exist"):
        predictor.predict([top, tmp_path / "missing.png"])


def test_one_picture_is_predicted_in_whatever_form_it_is_passed(tmp_path: Path, predictor: Predictor) -> None:
    path = save(letter_t(), tmp_path / "top.png")
    image = prepare(path, 28, 28).image
    expected = predictor(image[None])
    with Image.open(path) as opened, path.open("rb") as file:
        one: list[Picture] = [
            str(path),
            path,
            opened,
            file,
            io.BytesIO(path.read_bytes()),
            image,
            image[..., None],
            image[None, :, :, None],
            image[None, None],
        ]
        forms: list[Pictures] = [*one, *([form] for form in one), (form for form in [path])]
        for form in forms:
            assert np.array_equal(predictor(form), expected)
        assert np.array_equal(predictor(one), np.repeat(expected, len(one), axis=0))
        assert predictor.predict(one) == predictor.predict(path) * len(one)
        assert opened.load()  # it is not closed
        assert not file.closed


def test_a_model_is_named_by_text_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_predictor(classifier(Path("model.onnx")))(IMAGES[:1])
    for name in (".", "model.onnx", str(tmp_path)):
        assert np.array_equal(load_predictor(name)(IMAGES[:1]), expected)


def test_images_of_another_size_or_dtype_are_refused(predictor: Predictor) -> None:
    for shape in ((1, 32, 32), (32, 32), (28,), (1, 28, 28, 3), ()):
        with pytest.raises(DataError, match="28x28"):
            predictor(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="uint8"):
        predictor([np.zeros((28, 28), np.float32)])
    with pytest.raises(DataError, match="not a picture: 7"):
        predictor.predict([7])  # type: ignore[list-item]


def test_an_unsure_prediction_names_the_next_class(predictor: Predictor) -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, 8:21] = images[1, :14] = 255  # a row more in the lower half: the logits differ by 5 / 7
    unsure, sure = predictor.predict(images)
    assert unsure.warnings == ("the model is unsure; 0 has a probability of 32.9%",)
    assert sure.warnings == ()


def test_predicting_loads_no_tensorflow_and_prints_nothing(tmp_path: Path) -> None:
    model, picture = classifier(tmp_path / "half.onnx"), save(letter_t(), tmp_path / "t.png")
    program = f"""
import sys
from mnist_cnn.prediction import predictor
early = {{"numpy", "PIL", "onnxruntime"}} & set(sys.modules)
assert not early, early
predictor.load_predictor({str(model)!r}).predict({str(picture)!r})
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


# Models


def refusal(path: Path) -> str:
    """Return the message with which `load_predictor` refuses a model."""
    with pytest.raises(DataError) as caught:
        load_predictor(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_a_folder_and_its_model_file_are_the_same_model(tmp_path: Path) -> None:
    expected = load_predictor(classifier(tmp_path / "model.onnx"))(IMAGES[:3])
    assert np.array_equal(load_predictor(tmp_path)(IMAGES[:3]), expected)


@pytest.mark.parametrize("name", [".", "model.onnx"], ids=["folder", "file"])
def test_a_run_without_a_result_does_not_predict(tmp_path: Path, name: str) -> None:
    """Its worker was killed after model.onnx was written."""
    write_receipt(tmp_path, Status.running)
    classifier(tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"has no result\.json: its training is not completed") as refused:
        load_predictor(tmp_path / name)
    assert f"resume it: python -m mnist_cnn resume {tmp_path}" in refused.value.hint


def test_a_run_predicts_only_with_the_model_that_its_result_describes(tmp_path: Path) -> None:
    written = write_result(tmp_path)
    model = classifier(tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"model\.onnx is not the file that the training wrote") as refused:
        load_predictor(tmp_path)
    assert refused.value.hint == f"rebuild it: python -m mnist_cnn resume {tmp_path}"
    result = dataclasses.replace(written, files={"model.onnx": describe_content(model.read_bytes())})
    (tmp_path / "result.json").write_text(result.to_json())
    assert load_predictor(tmp_path).classes == 2
    (tmp_path / "result.json").write_text(result.to_json().replace("0.9", "0.8"))
    assert "result.json is damaged" in refusal(tmp_path)


def test_a_registered_model_predicts_only_as_it_was_registered(tmp_path: Path) -> None:
    entry = describe_content(classifier(tmp_path / "model.onnx").read_bytes())
    record = tmp_path / "model.json"
    record.write_text(json.dumps({"files": {"model.onnx": dataclasses.asdict(entry)}}))
    assert load_predictor(tmp_path).classes == 2
    record.write_text(json.dumps({"files": {}}))
    assert "model.json is damaged" in refusal(tmp_path)
    record.write_text(json.dumps({"files": {"model.onnx": {"bytes": 1, "sha256": "0"}}}))
    assert "model.onnx is not the file that the training wrote" in refusal(tmp_path)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    assert "has no model.onnx" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x08" * 50])
def test_a_file_that_is_not_a_model_is_refused_silently(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    assert "is not a valid ONNX model" in refusal(tmp_path / "bad.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path / "half.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    assert "is not a valid ONNX model" in refusal(path)


@pytest.mark.parametrize(
    "shape",
    [("batch", 28, 28, 3), ("batch", 28, "width", 1), (1, 28, 28, 1), ("batch", 784), ()],
    ids=["colour", "any width", "batch of one", "flat", "scalar"],
)
def test_a_model_with_another_input_shape_is_refused(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    message = refusal(one_operator(tmp_path / "other.onnx", "Identity", shape))
    assert "does not classify single-channel images" in message


def test_a_model_with_another_input_type_or_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "tensor(double)" in refusal(one_operator(path, "Identity", SHAPE, TensorProto.DOUBLE))
    assert "is not a classifier" in refusal(one_operator(path, "Relu", SHAPE))
    assert "does not return probabilities" in refusal(classifier(path, softmax=False))
