"""Follow a run and report its end.

Also decides what Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, TextIO

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.cli import report
from mnist_cnn.cli.display import show
from mnist_cnn.errors import Interrupted, MnistCnnError
from mnist_cnn.hints import command_line
from mnist_cnn.terminal import output, signals
from mnist_cnn.terminal.log_stream import LogStream
from mnist_cnn.tracking.recording import recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.backend import ModelRef, Run
    from mnist_cnn.config import Config
    from mnist_cnn.result import Result


def run_to_end(start: Callable[[], Run], config: Config, *, as_json: bool, is_own: bool = True) -> int:
    """Follow a run until it ends, and report how.

    Registers it if `register.name` is set. Ctrl-C stops the run if this command started it (`is_own`) and the
    run ends with its command. Otherwise it only detaches; if the run does not end with its command, the user
    is asked first. A command that started a run continues even if its output cannot be written.
    """
    ends_with_us = launch.ends_with_its_command(config)
    is_ours_to_stop = is_own and ends_with_us
    stream = sys.stderr if as_json else sys.stdout
    if is_own:
        stream = output.lossy(stream)
    run = model = None
    guard = signals.first_signal_only() if is_ours_to_stop else contextlib.nullcontext()
    with guard, contextlib.ExitStack() as recording:
        try:
            with signals.defer_signals() if ends_with_us else contextlib.nullcontext():
                run = start()
            print(f"run {run.folder}", file=stream, flush=True)
            recording.enter_context(recorded(run))
            result = _follow(run, stream, may_ask=not ends_with_us)
            recording.close()  # a registry may need what was recorded
            if is_own:
                model = _register(run, result, config, stream)
        except KeyboardInterrupt:
            if run is None:
                unknown = f"check whether it started: {command_line('list')}"
                hint = "nothing was started" if ends_with_us else unknown
                raise Interrupted("interrupted", hint if is_own else "") from None
            if not is_ours_to_stop:
                raise _detached(run) from None
            interrupted = _stop(run)
            report.print_costs([run])
            raise interrupted from None
        except MnistCnnError:
            if run is not None:
                report.print_costs([run])
            raise
    if as_json:
        _print_json(run, result, model)
    else:
        report.print_completed(run, result, model, config.register, stream)
    report.print_costs([run])
    return 0


def _print_json(run: Run, result: Result, model: ModelRef | None) -> None:
    registered = dataclasses.asdict(model) if model else None
    plain = json.loads(result.to_json())
    report.print_json({"run": str(run.folder), "result": plain, "registered": registered})


def _register(run: Run, result: Result, config: Config, stream: TextIO) -> ModelRef | None:
    """Register a completed run's model.

    If that is refused, reports the result first.
    """
    try:
        return report.register_model(run, config)
    except MnistCnnError:
        report.print_completed(run, result, None, config.register, stream)
        raise


def _follow(run: Run, stream: TextIO, *, may_ask: bool) -> Result:
    """Show a run; return its result.

    After Ctrl-C, asks the user first if `may_ask`.
    """
    log_stream = LogStream(run)
    while True:
        try:
            show(run, stream, log_stream)
            return run.wait()
        except signals.Terminated:
            raise
        except KeyboardInterrupt:
            answer = _ask() if may_ask else "d"
            if answer == "d":
                raise
            if answer == "c":
                run.cancel()


def _ask() -> str:
    """Ask whether to follow, detach or cancel.

    Returns f, d or c. Returns d without a terminal.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "d"
    question = "\nthe run is still running: [f]ollow it, [d]etach from it or [c]ancel it? "
    try:
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            answer = input().strip().lower()[:1]
            if answer in ("f", "d", "c"):
                return answer
    except (KeyboardInterrupt, EOFError):  # Ctrl-C again
        return "d"


def _stop(run: Run) -> Interrupted:
    """Cancel the command's run; return the error to report."""
    with contextlib.suppress(OSError):  # the terminal is closed
        print("\nstopping the run; its last checkpoint is kept", file=sys.stderr, flush=True)
    with signals.ignore_signals():
        run.cancel()
    status = run.status()
    return Interrupted(f"interrupted; {run.folder} is {status.value}", report.next_command(run, status))


def _detached(run: Run) -> Interrupted:
    """Return the error that reports a detached run.

    Uses only what is known, because a request could take minutes.
    """
    progress = run.progress()
    status = run_folder.read_receipt(run.folder).status
    if status.is_final and status is not Status.lost:
        return Interrupted(f"interrupted; {run.folder} is {status.value}", report.next_command(run, status))
    is_finalizing = progress is not None and progress.status == Status.finalizing
    state = "finalizing" if is_finalizing else "still running"
    hint = f"watch it again: {command_line('follow', run.folder)}"
    return Interrupted(f"detached; {run.folder} is {state}", hint)
