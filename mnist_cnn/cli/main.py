"""The command line's entry point.

Parses the arguments, runs the command, and turns an error into two lines and an exit code.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from mnist_cnn.cli.report import print_error, print_json
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    Interrupted,
    MnistCnnError,
    unexpected_error,
)
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.terminal.output import redirect_to_devnull
from mnist_cnn.terminal.signals import Terminated, ignore_signals

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command

COMPLETION = ("--shell-completion", "-sc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    signal.signal(signal.SIGTERM, _raise_terminated)
    _make_streams_usable()
    try:
        code = _run(arguments)
        _flush()  # now, because Python's own flush at exit would report an error as a traceback
    except MnistCnnError as error:
        return _report(Interrupted("interrupted") if _is_interrupt(error) else error, as_json=as_json)
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted"), as_json=as_json)
    except BrokenPipeError:  # the reader of the output has gone, for example `head`
        redirect_to_devnull(sys.stdout)
        return 0
    except Exception as error:  # noqa: BLE001 - reported as a bug
        translated = Interrupted("interrupted") if _is_interrupt(error) else unexpected_error(error)
        if translated.exit_code == MnistCnnError.exit_code:
            sys.stderr.write(redact(traceback.format_exc()))
        return _report(translated, as_json=as_json)
    return code


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C has caused an error.

    A library, or an import, may raise another error because of it.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        is_ours = isinstance(error, MnistCnnError)  # what we raise after Ctrl-C is what we want to report
        error = error.__cause__ or (None if is_ours else error.__context__)
    return error is not None


def _run(arguments: Sequence[str]) -> int:
    if any(flag in arguments for flag in COMPLETION):
        from mnist_cnn.cli.completion import answer

        print("\n".join(answer([argument for argument in arguments if argument not in COMPLETION])))
        return 0
    if any(argument in ("--help", "-h") for argument in arguments):
        from mnist_cnn.cli import help as help_page
        from mnist_cnn.cli.catalog import COMMANDS

        name = next((argument for argument in arguments if argument in COMMANDS), "help")
        help_page.print_help(help_page.of_command(name))
        return 0
    if "--version" in arguments:
        from mnist_cnn import __version__

        print(f"mnist_cnn {__version__}")
        return 0
    from mnist_cnn.cli.catalog import COMMANDS

    command = parse(arguments)
    if command.name == "config":
        return _show_configuration(command)
    if command.is_multirun and command.name not in ("train", "plan"):
        raise ConfigurationError(f"{command.name} does not take --multirun", "only train and plan do")
    try:
        return COMMANDS[command.name](command)
    except BrokenPipeError as error:
        if COMMANDS[command.name].only_reads:
            raise
        hint = f"check what it did: {command_line('list')}"
        raise BackendError(f"{command.name} stopped: stdout was closed", hint) from error


def _show_configuration(command: Command) -> int:
    """Do --cfg job for a valid configuration."""
    from mnist_cnn import compose

    command.refuse_arguments()
    for override in command.overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] == compose.SEARCH:
            hint = "leave it out; the settings of one training are shown"
            raise ConfigurationError(f"--cfg job does not take {override}", hint)
    print(redact(compose.as_yaml(command.config())), end="")  # a tracker's address may have a password
    return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the exit code still says how the command ended
        redirect_to_devnull(sys.stdout)


def main_and_exit() -> NoReturn:
    """Run as a process: `mnist-cnn`, or `python -m mnist_cnn`."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C during Python's exit would print a traceback
    raise SystemExit(code)


def parse(arguments: Sequence[str]) -> Command:
    """Parse a command line.

    Raises ConfigurationError for an unknown flag, or a wrong value of one.
    """
    from mnist_cnn.cli.catalog import COMMANDS
    from mnist_cnn.cli.command import Command

    rest = list(arguments)
    words: list[str] = []
    overrides: list[str] = []
    config_dirs: list[str] = []
    flags: dict[str, str] = {}
    own_flags = {flag: value for entry in COMMANDS.values() for flag, (value, _) in entry.flags.items()}
    shown = None
    is_multirun = False
    while rest:
        argument = rest.pop(0)
        flag = argument.partition("=")[0]
        if argument in ("-m", "--multirun"):
            is_multirun = True
        elif flag in ("--cfg", "-c"):
            what = _value(argument, rest)
            if what != "job":
                raise ConfigurationError(f"--cfg {what}: must be job", "--cfg job prints the configuration")
            shown = "config"
        elif flag in ("--config-dir", "-cd"):
            config_dirs.append(_value(argument, rest))
        elif flag in own_flags:
            flags[flag] = _own_value(argument, rest, own_flags[flag])
        elif argument.startswith("-") and argument != "-":  # which is standard input
            _check_flag(argument, rest)
        elif _is_override(argument):
            overrides.append(argument)
        else:
            words.append(argument)
    if words and words[0] not in COMMANDS:
        from mnist_cnn.cli import corrections

        hint = corrections.hint(words[0], words[1:])
        raise ConfigurationError(f"{words[0]} is neither a command nor KEY=VALUE", hint)
    name = words.pop(0) if words else "train"
    _check_taken(name, flags)
    return Command(
        name=shown or name,
        words=tuple(words),
        overrides=tuple(overrides),
        config_dirs=tuple(config_dirs),
        as_json="--json" in arguments,
        is_multirun=is_multirun,
        flags=flags,
    )


def _check_taken(name: str, flags: Iterable[str]) -> None:
    """Check that a command takes these flags. Raises ConfigurationError."""
    from mnist_cnn.cli.catalog import COMMANDS

    for flag in flags:
        if flag not in COMMANDS[name].flags:
            takers = [other for other, entry in COMMANDS.items() if flag in entry.flags]
            raise ConfigurationError(
                f"{name} does not take {flag}", f"{' and '.join(takers)} may be given it"
            )


def _value(argument: str, rest: list[str]) -> str:
    """Return a flag's value, or "".

    Takes `--flag=VALUE` and `--flag VALUE`.
    """
    _, equals, value = argument.partition("=")
    return value if equals or not rest else rest.pop(0)


def _own_value(argument: str, rest: list[str], wanted: str) -> str:
    """Return the value of a command's own flag.

    `wanted` is the value's name, or "" if the flag takes none. Raises ConfigurationError if the value is
    missing, or isn't wanted.
    """
    flag, equals, _ = argument.partition("=")
    if not wanted:
        if equals:
            raise ConfigurationError(f"{argument}: {flag} takes no value", f"write {flag}, or leave it out")
        return ""
    value = _value(argument, rest)
    if not value:
        raise ConfigurationError(f"{flag} needs a value", f"write {flag}={wanted}, or leave it out")
    return value


def _check_flag(argument: str, rest: Sequence[str]) -> None:
    """Refuse a flag that isn't known; `rest` follows it. Raises ConfigurationError."""
    if argument == "--json":  # main looks for it itself, because an error is printed as JSON too
        return
    from mnist_cnn.cli import corrections

    raise ConfigurationError(f"unknown flag {argument}", corrections.hint(argument, rest))


def _is_override(argument: str) -> bool:
    """Return whether an argument is KEY=VALUE, +KEY=VALUE or ~KEY.

    A path that contains `=` is not one.
    """
    return re.match(r"~|\+{0,2}[A-Za-z_][\w.@-]*(/[\w.@-]+)*=", argument) is not None


def _report(error: MnistCnnError, *, as_json: bool) -> int:
    """Print an error and return its exit code.

    Ignores streams that cannot be written.
    """
    with ignore_signals():
        try:
            if as_json:
                print_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
            print_error(error)
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            redirect_to_devnull(sys.stdout)
            redirect_to_devnull(sys.stderr)
    return error.exit_code


def _make_streams_usable() -> None:
    """Replace closed streams by /dev/null.

    Also escapes characters that the terminal's encoding lacks.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - stays open
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _raise_terminated(_signal_number: int, _frame: object) -> None:
    raise Terminated
