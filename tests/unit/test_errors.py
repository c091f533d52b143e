"""Errors say what happened and what to do, without secrets."""

from __future__ import annotations

import traceback

import pytest

from mnist_cnn.errors import ERRORS_BY_EXIT_CODE, ConfigurationError, MnistCnnError, unexpected_error


@pytest.mark.parametrize("error_class", [MnistCnnError, *ERRORS_BY_EXIT_CODE.values()])
def test_the_text_of_an_error_contains_its_hint(error_class: type[MnistCnnError]) -> None:
    error = error_class("run x: not found under runs")
    assert str(error) == "run x: not found under runs"
    error.hint = "`list` shows the runs"
    assert str(error) == str(error_class(error.message, error.hint)) == f"{error.message}\n{error.hint}"


def test_a_traceback_shows_message_and_hint_once() -> None:
    shown = "".join(traceback.format_exception(ConfigurationError("a message", "a hint")))
    assert (shown.count("a message"), shown.count("a hint")) == (1, 1)


def test_an_unexpected_error_is_a_bug_on_one_line() -> None:
    error = unexpected_error(ConfigurationError("a message", "a hint"))
    assert error.message == "a bug: ConfigurationError: a message a hint"
