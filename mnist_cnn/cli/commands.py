"""What each verb does, and the lines that it says at its end.

What happened, what to do about it, and the commands that go on from there. Knows no TensorFlow and no
service: runs are known by the contract alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, MnistCnnError
from mnist_cnn.terminal import output, signals

if TYPE_CHECKING:
    from mnist_cnn.backend import ModelRef, Run, Status
    from mnist_cnn.config import Config
    from mnist_cnn.result import Result


@dataclasses.dataclass(frozen=True)
class Command:
    """What was asked, taken apart: words are what is neither a flag nor KEY=VALUE."""

    verb: str
    words: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...]
    as_json: bool
    is_multirun: bool

    def config(self) -> Config:
        """Compose and check the configuration."""
        from mnist_cnn import compose

        return compose.load(self.overrides, self.config_dirs)

    def take_only(self, *groups: str) -> None:
        """Refuse settings that the verb would ignore."""
        for override in self.overrides:
            name = override.lstrip("+~").partition("=")[0]
            if name.partition(".")[0] not in groups:
                keys = ", ".join(
                    group if group in ("runs_dir", "force") else f"{group}.*" for group in groups
                )
                raise ConfigurationError(f"{self.verb} does not take {override}", f"it takes {keys}")

    def run_word(self) -> str:
        """Return the RUN that the verb needs."""
        if len(self.words) != 1 or not self.words[0]:
            wanted = "one RUN" if not any(self.words) else f"one RUN, not {' '.join(self.words)}"
            hint = f"for example {program()} {self.verb} latest; `list` shows the runs"
            raise ConfigurationError(f"{self.verb} needs {wanted}", hint)
        return self.words[0]

    def folder(self) -> Path:
        """Return the folder of the RUN that the verb needs."""
        from mnist_cnn import launch

        return launch.find(self.run_word(), self.overrides, self.config_dirs)

    def run(self) -> Run:
        """Return the RUN that the verb needs."""
        from mnist_cnn import launch

        return launch.attach_to(self.folder(), self.overrides, self.config_dirs)

    def no_words(self) -> None:
        """Refuse words where the verb takes none."""
        if self.words:
            from mnist_cnn.config import did_you_mean

            others = [verb for verb in COMMANDS if verb != self.verb]
            hint = did_you_mean(self.words[0], others, "settings are written KEY=VALUE; see --help")
            raise ConfigurationError(f"{self.verb} does not take the word {self.words[0]}", hint)


def program() -> str:
    """Return how this program was called, for the commands that it suggests."""
    called = Path(sys.argv[0]).name
    return "mnist-cnn" if called.startswith("mnist-cnn") else "python -m mnist_cnn"


def _train(command: Command) -> int:
    from mnist_cnn import launch

    command.no_words()
    if command.is_multirun:
        from mnist_cnn.cli.sweep import run_sweep

        return run_sweep(command.overrides, command.config_dirs, program(), as_json=command.as_json)
    config = command.config()
    return _see_through(partial(launch.start, config, launch.job_of(config)), config, command)


def _resume(command: Command) -> int:
    from mnist_cnn import launch

    command.take_only("runs_dir", "backend", "register", "force")
    config = launch.config_to_resume(command.folder(), command.overrides, command.config_dirs)
    start = launch.prepare_resume(command.run_word(), command.overrides, command.config_dirs)
    return _see_through(start, config, command)


def _plan(command: Command) -> int:
    from mnist_cnn import launch

    command.no_words()
    plan = launch.plan_of(command.config())
    if command.as_json:
        print_json(dict(plan.lines))
        return 0
    for label, value in plan.lines:
        print(f"{label:<11} {value}")
    return 0


def _list(command: Command) -> int:
    from mnist_cnn import compose, launch, run_folder

    command.no_words()
    command.take_only("runs_dir")
    runs_dir = compose.runs_dir(command.overrides, command.config_dirs)
    folders = run_folder.all_runs(runs_dir)
    rows = []
    for folder, status in launch.statuses(folders).items():
        with contextlib.suppress(BackendError):  # it was removed meanwhile
            rows.append({**_describe(folder), "status": status.value})
    rows.sort(key=lambda row: str(row["created"]), reverse=True)
    if command.as_json:
        print_json(rows)
        return 0
    if not rows:
        print(f"no runs under {runs_dir}\nstart one: {program()} backend=local")
        return 0
    from mnist_cnn.cli.tables import print_table

    print_table(
        ["run", "status", "accuracy", "backend", "age"],
        [[row["run"], row["status"], _percent(row["accuracy"]), row["backend"], _age(row)] for row in rows],
    )
    return 0


def _status(command: Command) -> int:
    from mnist_cnn import run_folder
    from mnist_cnn.terminal.log_stream import describe_progress

    command.take_only("runs_dir", "backend")
    run = command.run()
    status = run.status()
    progress = run.progress() if not status.is_final else None
    described = {**_describe(run.folder), "status": status.value}
    if command.as_json:
        now = dataclasses.asdict(progress) if progress else None
        print_json({**described, "folder": str(run.folder), "progress": now})
        return 0
    print(f"{described['run']} is {status.value} ({described['backend']}, {_age(described)} old)")
    host = run_folder.elsewhere(run_folder.read_receipt(run.folder))
    if host is not None and not status.is_final:
        print(f"this is what was last told of it on {host}")
    if progress is not None:
        print(describe_progress(progress))
    if described["accuracy"] is not None:
        print(f"test accuracy {_percent(described['accuracy'])}")
    if described["error"] is not None:
        print(f"error: {described['error']}")
    return 0


def _follow(command: Command) -> int:
    from mnist_cnn import launch

    command.take_only("runs_dir", "backend")
    config = launch.config_of_run(command.folder(), command.overrides, command.config_dirs)
    return _see_through(command.run, config, command, is_own=False)


def _cancel(command: Command) -> int:
    command.take_only("runs_dir", "backend")
    run = command.run()
    end_it = f"end it: {program()} cancel {run.folder}"
    try:
        before = run.status()
        run.cancel()
        status = run.status()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {run.folder} may go on", end_it) from None
    except BackendError as error:
        if str(run.folder) in error.hint:  # it says what becomes of the run
            raise
        hint = f"{error.hint}; then {end_it}" if error.hint else end_it
        raise BackendError(f"{error.message}; {run.folder} may go on", hint) from error
    if command.as_json:
        print_json({"run": run.folder.name, "status": status.value})
    else:
        said = f"is {status.value}\n{_next_command(run, status)}"
        said = f"had ended already: {status.value}" if before.is_final else said
        print(f"{run.folder} {said}", file=output.lossy(sys.stdout))
    _say_aftermath(run)
    return 0


def _register(command: Command) -> int:
    from mnist_cnn import launch

    command.take_only("runs_dir", "backend", "register")
    folder = command.folder()
    config = launch.config_of_run(folder, command.overrides, command.config_dirs)
    if config.register.name is None:
        hint = f"{program()} register {command.run_word()} register.name=mnist-cnn"
        raise ConfigurationError("register needs a name", f"for example {hint}")
    model = launch.attach_to(folder, command.overrides, command.config_dirs).register(config.register)
    if command.as_json:
        print_json(dataclasses.asdict(model))
    else:
        print(_registered(model), file=output.lossy(sys.stdout))
    return 0


def _predict(command: Command) -> int:
    from mnist_cnn import compose, run_folder
    from mnist_cnn.prediction import predictor

    if len(command.words) < 2:  # noqa: PLR2004 - a run and a picture
        hint = f"for example {program()} predict latest digit.png"
        raise ConfigurationError("predict needs a RUN and at least one IMAGE", hint)
    command.take_only("runs_dir")
    run, *images = command.words
    runs_dir = compose.runs_dir(command.overrides, command.config_dirs)
    model = Path(run)
    if not (model / "model.onnx").is_file():
        model = run_folder.find(run, runs_dir)
    predictions = predictor.load_predictor(model).predict_files([Path(image) for image in images])
    if command.as_json:
        pairs = zip(images, predictions, strict=True)
        print_json([{"image": image, **dataclasses.asdict(prediction)} for image, prediction in pairs])
        return 0
    for image, prediction in zip(images, predictions, strict=True):
        print(f"{image}: {prediction.label}  ({prediction.probability:.1%})")
    return 0


def _cluster(command: Command) -> int:
    from mnist_cnn.backend import HasCluster
    from mnist_cnn.backends import backend_class

    actions = ("show", "delete")
    if len(command.words) != 1 or command.words[0] not in actions:
        hint = f"for example {program()} cluster show backend=azure"
        raise ConfigurationError(f"cluster needs one of {', '.join(actions)}", hint)
    command.take_only("backend")
    config = command.config()
    backend = backend_class(config.backend.name)(config)
    if not isinstance(backend, HasCluster):
        hint = f"name one that has: {program()} cluster {command.words[0]} backend=azure"
        raise ConfigurationError(f"backend={config.backend.name} has no cluster", hint)
    lines = []
    stream = output.lossy(sys.stderr if command.as_json else sys.stdout)
    for line in backend.cluster(command.words[0]):
        lines.append(line)
        print(line, file=stream, flush=True)
    if command.as_json:
        print_json(lines)
    return 0


COMMANDS: dict[str, Callable[[Command], int]] = {
    "train": _train,
    "plan": _plan,
    "list": _list,
    "status": _status,
    "follow": _follow,
    "cancel": _cancel,
    "resume": _resume,
    "register": _register,
    "predict": _predict,
    "cluster": _cluster,
}

MERELY_READ = ("plan", "list", "status", "follow", "predict")
"""The verbs that have done what they were asked for when nobody reads their answer any more."""


def _see_through(start: Callable[[], Run], config: Config, command: Command, *, is_own: bool = True) -> int:
    """Follow a run to its end, register it where that is asked for, and say how it ended.

    Ctrl-C ends a run that this command starts (`is_own`) and that ends with its command; from any other it
    only turns away, where the run goes on without its command after asking. A run that this command starts is
    seen through also where nobody reads what it says.
    """
    from mnist_cnn import launch

    ends_with_us = launch.ends_with_its_command(config)
    is_ended_by_us = is_own and ends_with_us
    stream = sys.stderr if command.as_json else sys.stdout
    if is_own:
        stream = output.lossy(stream)
    run = model = None
    with signals.first_signal_only() if is_ended_by_us else contextlib.nullcontext():
        try:
            with signals.defer_signals() if ends_with_us else contextlib.nullcontext():
                run = start()
            print(f"run {run.folder}", file=stream, flush=True)
            result = _follow_through(run, stream, asks=not ends_with_us)
            if is_own and config.register.name is not None:
                model = _register_at_the_end(run, result, config, stream)
        except KeyboardInterrupt:
            if run is None:
                perhaps = (
                    "nothing was started" if ends_with_us else f"see whether it started: {program()} list"
                )
                raise Interrupted("interrupted", perhaps if is_own else "") from None
            interrupt = _interrupt(run, is_own=is_ended_by_us)
            _say_aftermath(run)
            raise interrupt from None
        except MnistCnnError:
            if run is not None:
                _say_aftermath(run)
            raise
    if command.as_json:
        registered = dataclasses.asdict(model) if model else None
        print_json({"run": str(run.folder), "result": json.loads(result.to_json()), "registered": registered})
    else:
        _say_completed(run, result, model, stream)
    _say_aftermath(run)
    return 0


def _register_at_the_end(run: Run, result: Result, config: Config, stream: TextIO) -> ModelRef:
    """Register a completed run's model; where that is refused, say all the same that the result is there."""
    try:
        return run.register(config.register)
    except MnistCnnError:
        _say_completed(run, result, None, stream, str(config.register.name))
        raise


def _follow_through(run: Run, stream: TextIO, *, asks: bool) -> Result:
    """Show a run to its end and return its result; `asks` what Ctrl-C is to do where that does not end it.

    Raises:
        KeyboardInterrupt: Ctrl-C, and the answer is to turn away.
    """
    from mnist_cnn.cli.display import follow
    from mnist_cnn.terminal.log_stream import LogStream

    log_stream = LogStream(run)
    while True:
        try:
            follow(run, stream, log_stream)
            return run.wait()
        except KeyboardInterrupt as interrupt:
            is_asked = asks and not isinstance(interrupt, signals.Terminated)
            answer = _ask_what_to_do() if is_asked else "d"
            if answer == "d":
                raise
            if answer == "c":
                run.cancel()


def _ask_what_to_do() -> str:
    """Ask at a terminal what Ctrl-C is to do to a run that goes on without us: f, d or c."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "d"
    question = "\nthe run goes on: [f]ollow it, [d]etach from it or [c]ancel it? "
    try:
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            answer = input().strip().lower()[:1]
            if answer in ("f", "d", "c"):
                return answer
    except (KeyboardInterrupt, EOFError):  # again: away from here
        return "d"


def _say_aftermath(run: Run) -> None:
    """Say what the place costs now, where it costs anything; Ctrl-C goes without."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in run.cost_report():
            print(line, file=output.lossy(sys.stderr), flush=True)


def _interrupt(run: Run, *, is_own: bool) -> Interrupted:
    """End an interrupted command's own run; return what to say of it."""
    if not is_own:
        return Interrupted(f"{run.folder} goes on", f"watch it again: {program()} follow {run.folder}")
    with contextlib.suppress(OSError):  # where the terminal is gone
        print("\nending the run; its last checkpoint is kept", file=sys.stderr, flush=True)
    with signals.ignore_signals():
        run.cancel()
    status = run.status()
    return Interrupted(f"interrupted; {run.folder} is {status.value}", _next_command(run, status))


def _next_command(run: Run, status: Status) -> str:
    if status == "completed":
        return f"look at it: {program()} status {run.folder}"
    return f"go on with it: {program()} resume {run.folder}"


def _say_completed(
    run: Run, result: Result, model: ModelRef | None, stream: TextIO, name: str = "mnist-cnn"
) -> None:
    """Say where the result is, and what can be done with it; `name` is what to register it as."""
    from mnist_cnn.terminal.log_stream import describe_seconds

    say = partial(print, file=stream, flush=True)
    epochs = f"{len(result.history)} epoch{'s' if len(result.history) > 1 else ''}"
    seconds = describe_seconds(sum(row.seconds for row in result.history))
    say(f"completed: test accuracy {_percent(result.accuracy)} after {epochs} in {seconds}")
    for change in result.changes:
        say(f"the weights cannot be compared with another run's: {change}")
    say(f"model and pictures are in {run.folder}: {', '.join(result.files)}")
    if model is not None:
        say(_registered(model))
    say(f"try it:      {program()} predict {run.folder} IMAGE.png")
    if model is None:
        say(f"register it: {program()} register {run.folder} register.name={name}")


def _registered(model: ModelRef) -> str:
    how = "registered" if model.is_new else "was registered before"
    return f"{how}: {model.name} version {model.version}, {model.location}"


def _describe(folder: Path) -> dict[str, Any]:
    """Return what a list says of a run, but for its status."""
    from mnist_cnn import run_folder

    receipt = run_folder.read_receipt(folder)
    try:
        result = run_folder.read_result(folder)
    except MnistCnnError:  # damaged, which a list only shows as missing
        result = None
    return {
        "run": folder.name,
        "backend": receipt.backend,
        "created": receipt.created,
        "accuracy": result.accuracy if result else None,
        "error": receipt.error,
    }


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def _age(row: dict[str, Any]) -> str:
    from datetime import UTC, datetime, timedelta

    import humanize

    age = datetime.now(UTC) - datetime.fromisoformat(row["created"])
    return humanize.naturaldelta(max(age, timedelta()))  # a clock may have been set back


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))
