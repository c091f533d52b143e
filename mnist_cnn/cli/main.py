"""The command line: argv taken apart, handed to its verb, and ended in the exit code that an error has.

Flags that are Hydra's own are left to Hydra.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from mnist_cnn.cli.commands import COMMANDS, MERELY_READ, Command, print_json, program
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    Interrupted,
    MnistCnnError,
    RunCancelled,
    unexpected_error,
)
from mnist_cnn.redaction import redact
from mnist_cnn.terminal.output import redirect_to_devnull
from mnist_cnn.terminal.signals import Terminated, ignore_signals

HYDRA_FLAGS = ("--info", "-i", "--shell-completion", "-sc", "--hydra-help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    signal.signal(signal.SIGTERM, _as_interrupt)
    _make_streams_usable()
    try:
        code = _answer(arguments)
        _flush()  # here, where an error is heard, and not when Python ends
    except MnistCnnError as error:
        return _report(error, as_json=as_json)
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted"), as_json=as_json)
    except BrokenPipeError:  # whoever read the answer has gone, as `head` does
        redirect_to_devnull(sys.stdout)
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort
        if not isinstance(error, OSError):
            sys.stderr.write(redact(traceback.format_exc()))
        return _report(unexpected_error(error), as_json=as_json)
    return code


def _answer(arguments: Sequence[str]) -> int:
    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in arguments):
        from mnist_cnn.compose import leave_to_hydra

        return leave_to_hydra(arguments)
    if any(argument in ("--help", "-h") for argument in arguments):
        from mnist_cnn.cli.help import help_text

        print(help_text(program()))
        return 0
    if "--version" in arguments:
        from mnist_cnn import __version__

        print(f"mnist_cnn {__version__}")
        return 0
    command = parse(arguments)
    if command.verb == "config":
        from mnist_cnn.compose import as_yaml

        print(as_yaml(command.config()), end="")
        return 0
    if command.is_multirun and command.verb != "train":
        raise ConfigurationError(f"{command.verb} does not take --multirun", "only train does")
    try:
        return COMMANDS[command.verb](command)
    except BrokenPipeError as error:
        if command.verb in MERELY_READ:
            raise
        hint = f"look at what became of it: {program()} list"
        raise BackendError(f"{command.verb} was not brought to its end: nobody reads it", hint) from error


def _flush() -> None:
    """Write what is still to be written; where nobody reads it any more, the exit code says how it ended."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        redirect_to_devnull(sys.stdout)


def main_and_exit() -> NoReturn:
    """Run as a process: `mnist-cnn`, or `python -m mnist_cnn`."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said, and Python's end takes a moment
    raise SystemExit(code)


def parse(arguments: Sequence[str]) -> Command:
    """Take the arguments apart. Raises ConfigurationError for a flag that there is not."""
    from mnist_cnn.config import did_you_mean

    rest = list(arguments)
    words: list[str] = []
    overrides: list[str] = []
    config_dirs: list[str] = []
    is_multirun = shows_config = False
    while rest:
        argument = rest.pop(0)
        if argument in ("-m", "--multirun"):
            is_multirun = True
        elif argument.partition("=")[0] in ("--cfg", "-c"):
            what = argument.partition("=")[2] or (rest.pop(0) if rest else "")
            if what != "job":
                raise ConfigurationError(
                    f"--cfg {what}: allowed is job", "--cfg job prints the configuration"
                )
            shows_config = True
        elif argument.partition("=")[0] in ("--config-dir", "-cd"):
            value = argument.partition("=")[2] or (rest.pop(0) if rest else "")
            config_dirs.append(value)
        elif argument.startswith("-"):
            if argument != "--json":
                flags = ["--json", "--multirun", "--config-dir", "--cfg", "--help", "--version"]
                hint = did_you_mean(argument, flags, "--help lists the flags")
                raise ConfigurationError(f"there is no flag {argument}", hint)
        elif _is_override(argument):
            overrides.append(argument)
        else:
            words.append(argument)
    verb = words.pop(0) if words and words[0] in COMMANDS else "train"
    return Command(
        verb="config" if shows_config else verb,
        words=tuple(words),
        overrides=tuple(overrides),
        config_dirs=tuple(config_dirs),
        as_json="--json" in arguments,
        is_multirun=is_multirun,
    )


def _report(error: MnistCnnError, *, as_json: bool) -> int:
    """Say how the command ended, as far as anything can be written, and return the exit code."""
    with ignore_signals():
        _say(error, as_json=as_json)
    return error.exit_code


def _say(error: MnistCnnError, *, as_json: bool) -> None:
    try:
        if os.environ.get("MNIST_CNN_DEBUG") == "1":
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        if as_json:
            print_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        is_failure = not isinstance(error, Interrupted | RunCancelled)
        for line in (f"{'error: ' if is_failure else ''}{error.message}", error.hint):
            if line:
                print(line.replace("\n", "\\n"), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        redirect_to_devnull(sys.stdout)
        redirect_to_devnull(sys.stderr)


def _make_streams_usable() -> None:
    """Give a closed stream somewhere to go, and characters that a terminal lacks a form that it has."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _is_override(argument: str) -> bool:
    """Tell KEY=VALUE (and Hydra's +KEY=VALUE, ~KEY) from a word, which may be a path with a `=` in it."""
    import re

    return re.match(r"~|\+{0,2}[A-Za-z_][\w.@-]*(/[\w.@-]+)*=", argument) is not None


def _as_interrupt(_signal_number: int, _frame: object) -> None:
    raise Terminated
