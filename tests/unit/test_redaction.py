"""Redaction removes passwords, keys and tokens from texts and errors."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest
from helpers.secret_scan import PASSWORD, PLANTED, PROXY_PASSWORD, TOKEN, SecretScan

from mnist_cnn.errors import MnistCnnError
from mnist_cnn.redaction import redact, without_secrets

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
