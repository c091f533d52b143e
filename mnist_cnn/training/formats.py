"""Writes a trained model in other formats.

Checks that what was written predicts the same. Everything is made from model.keras by TensorFlow, which is
imported when it is needed. The input is named "image" and the output "probabilities", as in model.onnx.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import cpu
from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError, DataError
from mnist_cnn.files import atomic
from mnist_cnn.training.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

CHECKED_IMAGES = 100
"""How many of MNIST's test images are compared."""
TOLERANCE = 1e-5
"""The largest allowed difference between two probabilities.

float32 sums in another order differ by about 1e-6; a wrong weight or layer, by much more.
"""
NO_CLASS = "Could not locate class"
"""How Keras' error about a class that it doesn't know begins."""
SIGNATURE = "serving_default"
IMAGE, PROBABILITIES = "image", "probabilities"


def load(path: Path) -> keras.Model:
    """Load a model.keras for prediction on the CPU.

    Raises DataError if it isn't a Keras model.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cpu.enable_onednn()
    tf = import_tensorflow()
    import keras

    tf.config.set_visible_devices([], "GPU")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the file's content leads to
        if NO_CLASS in str(error):
            message = f"{path} has layers of custom classes, which export does not support"
            raise DataError(message, "use the run's model.onnx, which needs no classes") from error
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be loaded: {reason}", "name a completed run") from error


def write_saved_model(model: keras.Model, folder: Path) -> float:
    """Write TensorFlow's SavedModel to a new folder.

    Returns the largest difference of a probability. Raises BackendError if the folder cannot be written, or
    the written model predicts something else.
    """
    import tensorflow as tf

    with atomic.new_folder(folder) as temporary:
        save(model, temporary)
        run = tf.saved_model.load(str(temporary)).signatures[SIGNATURE]
        images = _test_images(model)
        found = run(**{IMAGE: tf.constant(images)})[PROBABILITIES].numpy()
        return _check(model, images, found, folder)


def write_litert(model: keras.Model, path: Path) -> float:
    """Write a file for LiteRT.

    Returns the largest difference of a probability. The file has only LiteRT's built-in operations, so that
    it runs wherever LiteRT does.

    Raises:
        ConfigurationError: TensorFlow has no converter, or the network has an operation that LiteRT does not.
        BackendError: the file cannot be written, or the written model predicts something else.
    """
    import tensorflow as tf

    if not hasattr(tf, "lite"):  # future versions will leave LiteRT to packages of its own
        message = f"TensorFlow {tf.__version__} has no converter for LiteRT"
        raise ConfigurationError(message, "install one that has: pip install 'tensorflow==2.21.*'")
    with tempfile.TemporaryDirectory() as saved, atomic.replacing(path) as temporary:
        save(model, Path(saved))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        try:
            content = converter.convert()
        except Exception as error:  # the converter has no error class that is public
            reason = " ".join(str(error).split())
            message = f"the network cannot be converted to LiteRT: {reason}"
            raise ConfigurationError(message, "use --saved-model, or the run's model.onnx") from error
        temporary.write_bytes(content)
        images = _test_images(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the interpreter warns that it will move to another package
            interpreter = tf.lite.Interpreter(model_content=content)
        run = interpreter.get_signature_runner(SIGNATURE)
        return _check(model, images, run(**{IMAGE: images})[PROBABILITIES], path)


def save(model: keras.Model, folder: Path) -> None:
    """Write a SavedModel with one signature.

    It maps image (batch, ...) to probabilities (batch, classes).
    """
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda image: {PROBABILITIES: model(image, training=False)},
        [tf.TensorSpec(model.input_shape, tf.float32, IMAGE)],
    )
    archive.write_out(str(folder), verbose=False)


def _test_images(model: keras.Model) -> Images:
    """Return MNIST's first test images in a model's size."""
    import numpy as np
    from PIL import Image

    shape = model.input_shape[1:]  # (height, width, 1) or (1, height, width)
    height, width = shape[1:] if shape[0] == 1 else shape[:2]
    images = datasets.load(DataConfig(test_limit=CHECKED_IMAGES)).x_test[..., 0]
    sized = [np.asarray(Image.fromarray(image).resize((width, height))) for image in images]
    return np.array(sized, np.float32).reshape(-1, *shape) / np.float32(255)


def _check(model: keras.Model, images: Images, found: Images, path: Path) -> float:
    """Return the largest difference from a model's probabilities.

    Raises BackendError above TOLERANCE.
    """
    import numpy as np

    difference = float(np.abs(model.predict_on_batch(images) - found).max())
    if difference <= TOLERANCE:
        return difference
    message = f"{path} was not written: it would predict other probabilities, by up to {difference:.1e}"
    raise BackendError(message, "use model.keras or model.onnx; please report this with the run's job.json")
