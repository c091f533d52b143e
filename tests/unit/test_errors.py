"""Errors say what happened and what to do, without secrets."""

from __future__ import annotations

import traceback

import pytest

from mnist_cnn.errors import ERRORS_BY_EXIT_CODE, ConfigurationError, MnistCnnError, unexpected_error


@pytest.mark.parametrize("error_class", [MnistCnnError, *ERRORS_BY_EXIT_CODE.values()])
def test_the_text_of_an_error_contains_its_hint(error_class: type[MnistCnnError]) -> None:
    error = error_class("run x: not found under runs", "`list` shows the runs")
    assert str(error) == "run x: not found under runs\n`list` shows the runs"
    assert str(error_class("run x: not found under runs")) == "run x: not found under runs"


def test_a_hint_that_is_added_later_is_part_of_the_text() -> None:
    error = ConfigurationError("train.epochs=0")
    error.hint = "set it to 1"
    assert str(error) == "train.epochs=0\nset it to 1"


def test_a_traceback_shows_message_and_hint_once() -> None:
    shown = "".join(traceback.format_exception(ConfigurationError("a message", "a hint")))
    assert (shown.count("a message"), shown.count("a hint")) == (1, 1)


def test_an_unexpected_error_is_a_bug_on_one_line() -> None:
    error = unexpected_error(ConfigurationError("a message", "a hint"))
    assert error.message == "a bug: ConfigurationError: a message a hint"
