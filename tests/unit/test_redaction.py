"""Redaction removes passwords, keys and tokens from texts and errors."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from helpers.secret_scan import (
    DATABASE_PASSWORD,
    ENVIRONMENT,
    PASSWORD,
    PLANTED,
    PROXY_PASSWORD,
    TOKEN,
    SecretScan,
)

from mnist_cnn.errors import MnistCnnError
from mnist_cnn.redaction import redact, redacted, without_secrets

QUOTED = {
    "plain": f"the password is {PASSWORD}",
    "Python": repr({"PATH": "/bin", "DB_PASSWORD": PASSWORD}),
    "JSON": json.dumps({"x": PASSWORD}),
    "URL": f"https://here/?client={quote(PASSWORD)}",
    "base64": f"sent {base64.b64encode(PASSWORD.encode()).decode()}",
    "proxy": f"HTTP_PROXY=http://alice:{PROXY_PASSWORD}@127.0.0.1:9 is refused",
    "login of a URL": f"https://{TOKEN}@github.com/x.git",
    "password with an @": f"https://alice:p@{TOKEN}@github.com/x.git",
    "password with a slash": f"track.mlflow.uri=postgresql://alice:p/{TOKEN}@db.example/x",
    "encoded password with a slash": quote(f"postgresql://alice:p@/{TOKEN}@db.example/x", safe=""),
    "URL as a path": str(Path(f"https://alice:{TOKEN}@github.com/x.git")),
    "URL in a URL": quote(f"https://alice:{TOKEN}@github.com/x.git", safe=""),
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


DATABASE_URL = ENVIRONMENT["DATABASE_URL"]
FROM_A_URL = {
    "variable": f"cannot reach {DATABASE_URL}",
    "encoded variable": quote_plus(DATABASE_URL),
    "decoded password": f"wrong password {DATABASE_PASSWORD}",
    "encoded password": f"wrong password {quote(DATABASE_PASSWORD, safe='')}",
    "header": f"Basic {base64.b64encode(f'alice:{DATABASE_PASSWORD}'.encode()).decode()}",
}


@pytest.mark.parametrize("text", FROM_A_URL.values(), ids=FROM_A_URL)
def test_the_password_in_a_variables_url_is_redacted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (DATABASE_URL, f"postgresql://alice:{DATABASE_PASSWORD}@127.0.0.1/db"):
        monkeypatch.setenv("DATABASE_URL", url)
        shown = redact(text)
        assert "***" in shown
        assert "planted" not in shown
        assert not SecretScan(PLANTED).found_in(shown.encode())


def test_a_variables_secret_of_8_characters_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "8letters")
    monkeypatch.setenv("OTHER_PASSWORD", "letters")
    assert redact("8letters letters") == "*** letters"


def test_a_redacted_stream_hides_secrets_that_are_written_in_pieces() -> None:
    written = io.StringIO()
    stream = redacted(written)
    print("password", TOKEN, "passwords", sep="=", end="", file=stream)
    assert written.getvalue() == ""
    print(file=stream)
    assert written.getvalue() == "password=***\n"
    print(f"token={TOKEN}", end="", file=stream, flush=True)
    stream.writelines([" and\n", "more"])
    assert written.getvalue() == "password=***\ntoken=*** and\n"


def test_a_redacted_stream_hides_the_secrets_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", redacted(written))
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest's would catch it
    thread = threading.Thread(target=lambda: int(f"token={TOKEN}"))
    thread.start()
    thread.join()
    assert "ValueError" in written.getvalue()
    assert TOKEN not in written.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "cannot write runs/a: No space left on device",
        "model.filters=[32,64]: at least one",
        "https://ml.azure.com/runs/mnist-cnn_1795568267_24b5db73?wsid=/subscriptions/1234&tid=5678",
        "weights f7c941ece751271bdb0e5990d6c5a56851621a2e1c42ad4f5b86a07e0cf96201",
        "register.name=mnist-cnn; alice@example.org; password",
        "http://127.0.0.1:8000/runs/a is not reachable; ask alice@example.org",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text


REDACT_LONG = """
from mnist_cnn.redaction import redact
words = "a", "-", "eyJ-", "eyJa.", "token", "password ", "password='", "bearer ", "sharedkey x"
for word in (*words, "://a", ":%2F"):
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
