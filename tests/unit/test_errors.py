"""Errors say what happened and what to do, without secrets."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from pathlib import Path

import pytest

from mnist_cnn.errors import (
    ERRORS_BY_EXIT_CODE,
    BackendError,
    ConfigurationError,
    MnistCnnError,
    storage_error,
    unexpected_error,
)
from mnist_cnn.hints import command_line

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("error_class", [MnistCnnError, *ERRORS_BY_EXIT_CODE.values()])
def test_the_text_of_an_error_contains_its_hint(error_class: type[MnistCnnError]) -> None:
    error = error_class("run x: not found under runs")
    assert str(error) == "run x: not found under runs"
    error.hint = "start one"
    assert str(error) == str(error_class(error.message, error.hint)) == f"{error.message}\n{error.hint}"


def test_a_traceback_shows_message_and_hint_once() -> None:
    shown = "".join(traceback.format_exception(ConfigurationError("a message", "a hint")))
    assert (shown.count("a message"), shown.count("a hint")) == (1, 1)


def test_an_unexpected_error_is_a_bug_on_one_line() -> None:
    error = unexpected_error(ConfigurationError("a message", "a hint"))
    assert error.message == "a bug: ConfigurationError: a message a hint"


def test_a_hint_that_is_given_later_is_redacted_too() -> None:
    error = BackendError("the tracker refused")
    error.then("log in again: https://user:a-password@host/")
    assert error.hint == "log in again: https://***@host/"
    error.then("resume it with token=eyJhbGci.eyJzdWIi.c2ln")
    assert error.hint == "log in again: https://***@host/; then resume it with token=***"


@pytest.mark.parametrize(
    ("called", "program"),
    [
        ("/usr/bin/mnist-cnn", "mnist-cnn"),
        ("mnist-cnn.exe", "mnist-cnn"),
        ("mnist_cnn/__main__.py", "python -m mnist_cnn"),
        ("", "python -m mnist_cnn"),
    ],
)
def test_a_suggested_command_can_be_pasted_into_a_shell(
    called: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    words = ("resume", Path("my runs/a"), "force=true")
    assert command_line(*words) == f"{program} resume 'my runs/a' force=true"


def test_no_hint_names_a_command_by_hand() -> None:
    sources = [file for part in ("mnist_cnn", "backends") for file in (ROOT / part).rglob("*.py")]
    assert sources
    names = "(?:resume|follow|status|cancel|predict|register)"
    by_hand = rf"(?<!cannot ){names} \{{[^}}]*(?:folder|run)\b|`\w+` shows the|python -m mnist_cnn {names}\b"
    assert not [line for file in sources for line in re.findall(f".*{by_hand}.*", file.read_text("utf-8"))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_only_a_place_that_can_be_changed_is_suggested(number: int) -> None:
    error = OSError(number, "it failed")
    assert "runs_dir=FOLDER" in storage_error(error, "runs/new", "runs_dir=FOLDER").hint
    in_a_run = storage_error(error, "runs/a/run.json").hint  # a run that exists cannot move
    assert in_a_run
    assert "=" not in in_a_run
    assert "another" not in in_a_run
