"""No error, log or file of a run contains a password, key or token."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from helpers.processes import SMALL, TINY, run_command
from helpers.secret_scan import CRASHING_NETWORK, SecretScan, files_under

from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError
from mnist_cnn.redaction import redact, without_secrets

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = 'My "pass\\word" that is & planted'  # noqa: S105 - what is looked for
TOKEN = "Tokens-are-planted-here-and-there"  # noqa: S105 - as above
MIRROR_PASSWORD = "Mirror-password-that-is-planted"  # noqa: S105 - as above
PROXY_PASSWORD = "Proxy-password-that-is-planted"  # noqa: S105 - as above
PLANTED = {"my password": PASSWORD, "my token": TOKEN, "mirror": MIRROR_PASSWORD, "proxy": PROXY_PASSWORD}
ENVIRONMENT = {
    "DB_PASSWORD": PASSWORD,
    "AZUREML_RUN_TOKEN": TOKEN,
    "HTTP_PROXY": f"http://somebody:{PROXY_PASSWORD}@127.0.0.1:9",
}


@pytest.fixture
def secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put secrets into the environment."""
    for name, secret in ENVIRONMENT.items():
        monkeypatch.setenv(name, secret)


QUOTED = {
    "plain": f"the password is {PASSWORD}",
    "Python": repr({"PATH": "/bin", "DB_PASSWORD": PASSWORD}),
    "JSON": json.dumps({"x": PASSWORD}),
    "URL": f"https://here/?client={quote(PASSWORD)}",
    "base64": f"sent {base64.b64encode(PASSWORD.encode()).decode()}",
    "proxy": f"HTTP_PROXY=http://somebody:{PROXY_PASSWORD}@127.0.0.1:9 is refused",
    "login of a URL": f"https://{TOKEN}@github.com/x.git",
    "quoted value": f"{{'client_secret': 'something {TOKEN}'}}",
    "key": f"aws_secret_access_key = {TOKEN}",
    "header": f"Proxy-Authorization: Basic {TOKEN}",
    "access token": f"it came with x-eyJ{TOKEN}-eyJ.{TOKEN}.{TOKEN}",
}


@pytest.mark.parametrize("text", QUOTED.values(), ids=QUOTED)
def test_a_secret_is_redacted_however_it_is_quoted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    planted = SecretScan(PLANTED)
    assert planted.found_in(text.encode())
    assert not planted.found_in(redact(text).encode())


@pytest.mark.parametrize(
    "text",
    [
        "cannot write runs/a: No space left on device",
        "model.filters=[32,64]: at least one",
        "https://ml.azure.com/runs/mnist-cnn_1795568267_24b5db73?wsid=/subscriptions/1234&tid=5678",
        "weights f7c941ece751271bdb0e5990d6c5a56851621a2e1c42ad4f5b86a07e0cf96201",
        "register.name=mnist-cnn; somebody@example.org; password",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text


REDACT_LONG = """
from mnist_cnn.redaction import redact
for word in ("a", "-", "eyJ-", "eyJa.", "token", "password ", "password='", "bearer ", "sharedkey x", "://a"):
    redact(word * (1_000_000 // len(word)))
"""
"""Text as a damaged file or an answer may hold it; quadratic time would be hours."""


def test_a_million_characters_are_redacted_in_linear_time() -> None:
    subprocess.run([sys.executable, "-P", "-c", REDACT_LONG], timeout=120, check=True)


def test_an_error_and_its_causes_show_no_secret() -> None:
    planted = SecretScan(PLANTED)

    foreign = ValueError(f"token: {TOKEN}")
    foreign.__cause__ = OSError(f"password={TOKEN}")
    error = MnistCnnError(f"no answer to Bearer {TOKEN}", f"ask https://me:{TOKEN}@there")
    error.__cause__ = without_secrets(foreign)
    shown = "".join(traceback.format_exception(error))
    assert "ValueError: token: ***" in shown
    assert "OSError: password=***" in shown
    texts = (shown, error.message, error.hint, str(error), repr(error), repr(error.args))
    assert not [text for text in texts if planted.found_in(text.encode())]


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
