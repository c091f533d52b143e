"""`export` writes a SavedModel and a LiteRT file that predict what the run's model predicts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.processes import REGISTER, run_command, run_successfully

from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.training import formats

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
SCALED = PIXELS[..., None].astype(np.float32) / np.float32(255)


def saved_model(folder: Path, images: NDArray[np.float32]) -> Any:
    import tensorflow as tf

    run = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return run(image=tf.constant(images))["probabilities"].numpy()


def litert(path: Path, images: NDArray[np.float32]) -> Any:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path))
    return interpreter.get_signature_runner("serving_default")(image=images)["probabilities"]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.usefixtures("keras")
def test_exported_models_predict_what_the_runs_model_predicts(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    run_successfully("register", "run", *REGISTER, cwd=tmp_path)
    words = ("export", "models/m", "--saved-model", "digits", "--litert", "digits.tflite")
    ended = run_successfully(*words, cwd=tmp_path)
    assert ended.err == ""
    folder, file = ended.out.splitlines()
    assert folder.startswith("digits: SavedModel, checked with 100 images; ")
    assert file.startswith("digits.tflite: LiteRT, checked with 100 images; ")
    expected = load_predictor(small_run)(PIXELS)
    for images in (slice(0, 1), slice(None)):
        assert np.abs(saved_model(tmp_path / "digits", SCALED[images]) - expected[images]).max() < 1e-5
        assert np.abs(litert(tmp_path / "digits.tflite", SCALED[images]) - expected[images]).max() < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits.tflite", "models", "run"]
    assert (tmp_path / "digits").stat().st_mode & 0o777 == (tmp_path / "models").stat().st_mode & 0o777
    assert run_command(*words, cwd=tmp_path).code == 2


def network(*layers: keras.Layer, shape: tuple[int, ...] = (28, 28, 1)) -> keras.Model:
    import keras

    keras.utils.set_random_seed(0)
    ends = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input(shape, name="picture"), *layers, *ends])


@pytest.mark.parametrize("shape", [(1, 28, 28), (20, 30, 1)])
def test_images_of_another_size_or_order_are_exported_too(
    keras: ModuleType, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    order = "channels_first" if shape[0] == 1 else "channels_last"
    axis = 1 if shape[0] == 1 else 3
    model = network(
        keras.layers.Conv2D(4, 3, data_format=order),
        keras.layers.BatchNormalization(axis),
        keras.layers.MaxPooling2D(2, data_format=order),
        shape=shape,
    )
    assert formats.write_saved_model(model, tmp_path / "folder") <= formats.TOLERANCE
    assert formats.write_litert(model, tmp_path / "file") <= formats.TOLERANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_network_that_litert_cannot_run_is_refused(keras: ModuleType, tmp_path: Path) -> None:
    class Erfinv(keras.layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, images: Any) -> Any:
            return keras.ops.erfinv(images / 2)

    with pytest.raises(ConfigurationError, match="cannot be converted to LiteRT") as caught:
        formats.write_litert(network(Erfinv()), tmp_path / "file")
    assert "--saved-model" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("write", [formats.write_saved_model, formats.write_litert])
def test_a_model_that_predicts_something_else_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    save = formats.save

    def save_and_change(model: keras.Model, folder: Path) -> None:
        save(model, folder)
        weights, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([weights * 1.01, bias])

    monkeypatch.setattr(formats, "save", save_and_change)
    with pytest.raises(BackendError, match="would predict other probabilities, by up to"):
        write(network(), tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("keras")
def test_a_tensorflow_without_litert_is_refused_with_the_one_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    monkeypatch.delattr(tf, "lite")
    with pytest.raises(ConfigurationError, match="has no converter for LiteRT") as caught:
        formats.write_litert(network(), tmp_path / "file")
    assert "pip install 'tensorflow==2.21.*'" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
