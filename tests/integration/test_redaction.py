"""No error, log or file of a run contains a password, key or token."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.processes import TINY, run_command
from helpers.secret_scan import (
    CRASHING_NETWORK,
    ENVIRONMENT,
    MIRROR_PASSWORD,
    PLANTED,
    SecretScan,
    files_under,
)

from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError


@pytest.fixture(autouse=True)
def secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put secrets into the environment."""
    for name, secret in ENVIRONMENT.items():
        monkeypatch.setenv(name, secret)


NETWORK_THAT_CANNOT_BE_BUILT = "import os\ndef build(*_):\n    raise ValueError(dict(os.environ))\n"
NETWORK_WITHOUT_ONNX = """
import logging
import os
import threading
import warnings
from urllib.parse import unquote
import keras
from keras import layers

def export(*_, **__):
    raise RuntimeError(dict(os.environ))

def fail():
    raise RuntimeError(dict(os.environ))

def build(config, input_shape, num_classes):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    warnings.warn(unquote(os.environ["DATABASE_URL"]))
    logging.getLogger("mine").error("the environment is %s", dict(os.environ))
    keras.Model.export = export
    outputs = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), outputs])
"""


@pytest.mark.parametrize(
    ("network", "code", "shown"),
    [
        (CRASHING_NETWORK, MnistCnnError.exit_code, "the environment is"),
        (NETWORK_THAT_CANNOT_BE_BUILT, ConfigurationError.exit_code, "build() failed"),
        (NETWORK_WITHOUT_ONNX, 0, "no model.onnx, so `predict` will not work: RuntimeError: {"),
    ],
    ids=["crashes", "cannot be built", "cannot be exported"],
)
def test_a_network_that_shows_its_environment_leaves_no_secret(
    tmp_path: Path, network: str, code: int, shown: str
) -> None:
    (tmp_path / "net.py").write_text(network)
    ended = run_command(*TINY, "model.file=net.py", "run_dir=run", cwd=tmp_path)
    assert ended.code == code, ended.err
    assert shown in ended.out + ended.err
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    if network is CRASHING_NETWORK:
        assert "RuntimeError" in log
    if network is NETWORK_WITHOUT_ONNX:
        assert all(text in log for text in ("Exception in thread", "UserWarning", "the environment is {"))
    written = [*files_under(tmp_path), ("what was printed", (ended.out + ended.err).encode())]
    assert not SecretScan(PLANTED).leaks(written)


def test_no_error_shows_the_password_of_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = f"http://alice:{MIRROR_PASSWORD}@127.0.0.1:9/there"
    monkeypatch.setenv("MNIST_CNN_MIRROR", mirror)
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path))
    ended = run_command("data=kmnist", cwd=tmp_path, MNIST_CNN_DEBUG="1", NO_PROXY="*")
    assert ended.code == DataError.exit_code
    assert "127.0.0.1" in ended.err
    assert not SecretScan(PLANTED).leaks([("what was printed", (ended.out + ended.err).encode())])
