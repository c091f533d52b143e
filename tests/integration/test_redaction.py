"""No error, log or file of a run contains a password, key or token."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.processes import SMALL, TINY, run_command
from helpers.secret_scan import (
    CRASHING_NETWORK,
    ENVIRONMENT,
    MIRROR_PASSWORD,
    PLANTED,
    SecretScan,
    files_under,
)

from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError


@pytest.fixture
def secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put secrets into the environment."""
    for name, secret in ENVIRONMENT.items():
        monkeypatch.setenv(name, secret)


@pytest.mark.usefixtures("secrets_around")
def test_a_crashing_network_leaves_no_secret_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CRASHING_NETWORK)
    ended = run_command(*SMALL, "model.file=net.py", "run_dir=run", cwd=tmp_path)
    assert ended.code == MnistCnnError.exit_code
    assert "the environment is" in ended.err
    written = [*files_under(tmp_path), ("what was printed", (ended.out + ended.err).encode())]
    assert b"RuntimeError" in (tmp_path / "run" / "log.txt").read_bytes()
    assert not SecretScan(PLANTED).leaks(written)


NETWORK_WITHOUT_ONNX = """
import os
import keras
from keras import layers

def export(*_, **__):
    raise RuntimeError(dict(os.environ))

def build(config, input_shape, num_classes):
    keras.Model.export = export
    outputs = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), outputs])
"""


@pytest.mark.usefixtures("secrets_around")
def test_a_failed_export_leaves_no_secret_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK_WITHOUT_ONNX)
    ended = run_command(*TINY, "model.file=net.py", "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "no model.onnx, so `predict` will not work: RuntimeError: {" in ended.out
    written = [*files_under(tmp_path), ("what was printed", (ended.out + ended.err).encode())]
    assert not SecretScan(PLANTED).leaks(written)


@pytest.mark.usefixtures("secrets_around")
def test_a_network_that_cannot_be_built_leaves_no_secret(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import os\ndef build(*_):\n    raise ValueError(dict(os.environ))\n")
    ended = run_command(*SMALL, "model.file=net.py", "run_dir=run", cwd=tmp_path)
    assert ended.code == ConfigurationError.exit_code
    assert "build() failed" in ended.err
    written = [*files_under(tmp_path), ("what was printed", (ended.out + ended.err).encode())]
    assert not SecretScan(PLANTED).leaks(written)


@pytest.mark.usefixtures("secrets_around")
def test_no_error_shows_the_password_of_a_mirror(tmp_path: Path) -> None:
    mirror = f"http://somebody:{MIRROR_PASSWORD}@127.0.0.1:9/there"
    ended = run_command(
        "data=kmnist",
        cwd=tmp_path,
        MNIST_CNN_MIRROR=mirror,
        MNIST_CNN_CACHE=str(tmp_path),
        MNIST_CNN_DEBUG="1",
        NO_PROXY="*",
    )
    assert ended.code == DataError.exit_code
    assert "127.0.0.1" in ended.err
    assert not SecretScan(PLANTED).leaks([("what was printed", (ended.out + ended.err).encode())])
