"""What each command does.

Knows runs only by the contract of backend.py; imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from mnist_cnn import job_maker, launch, run_folder
from mnist_cnn.backend import HasCluster, Status
from mnist_cnn.cli import report
from mnist_cnn.cli.run_to_end import run_to_end
from mnist_cnn.cli.sweep import plan_sweep, run_sweep
from mnist_cnn.cli.table import coloured
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, MnistCnnError
from mnist_cnn.hints import command_line
from mnist_cnn.result import percent
from mnist_cnn.terminal import output
from mnist_cnn.terminal.log_stream import describe_progress, epochs_and_time
from mnist_cnn.tracking import state as tracking_state

if TYPE_CHECKING:
    from mnist_cnn.backend import Run
    from mnist_cnn.cli.command import Command

CLUSTER_ACTIONS = ("show", "delete")


def train(command: Command) -> int:
    command.refuse_arguments()
    if command.is_multirun:
        return run_sweep(command.overrides, command.config_dirs, as_json=command.as_json)
    config = command.config()
    return run_to_end(
        partial(launch.start, config, job_maker.job_of(config)), config, as_json=command.as_json
    )


def resume(command: Command) -> int:
    new_run = ("run_dir",) if launch.is_extension(command.overrides) else ()
    command.allow_only(
        "runs_dir", "backend", "register", "force", "pause_after", "track", "train.epochs", *new_run
    )
    config = launch.config_to_resume(command.folder(), command.overrides, command.config_dirs)
    start = launch.prepare_resume(command.run_argument(), command.overrides, command.config_dirs)
    return run_to_end(start, config, as_json=command.as_json)


def follow(command: Command) -> int:
    command.allow_only("runs_dir", "backend", "track")
    config = command.run_config()
    tracking_state.choose(command.folder(), config.track)
    return run_to_end(command.run, config, as_json=command.as_json, is_own=False)


def plan(command: Command) -> int:
    command.refuse_arguments()
    if command.is_multirun:
        plans = plan_sweep(command.overrides, command.config_dirs)
    else:
        plans = [dict(launch.plan_of(command.config()).lines)]
    if command.as_json:
        report.print_json(plans if command.is_multirun else plans[0])
        return 0
    for number, plan in enumerate(plans, 1):
        if command.is_multirun:
            print(f"[{number}/{len(plans)}] {plan.pop('settings')}")
        unknown = dict.fromkeys(plans[0].keys() - plan.keys(), "not known yet")
        for label, value in (plan | unknown).items():
            if number == 1 or value != plans[0].get(label):  # only what differs from the first plan
                print(f"{label:<11} {value}")
        if number == 1 < len(plans):
            print("the other jobs, differences only:")
    return 0


def status(command: Command) -> int:
    command.allow_only("runs_dir", "backend")
    run = command.run()
    status = run.status()
    progress = run.progress() if not status.is_final else None
    damage = run_folder.damage(run.folder, status) if status.is_final else None
    training = report.describe_training(run.folder)
    row = {**report.describe_run(run.folder), "status": status.value, "damage": damage}
    if status.is_final and status is not Status.completed:
        row |= end_of(run)
    if command.as_json:
        now = dataclasses.asdict(progress) if progress else None
        report.print_json({**row, "folder": str(run.folder), "progress": now, **training})
        return 0
    shown = coloured(status.value, sys.stdout)
    print(f"{row['run']} is {shown} ({row['backend']}, {report.age(row['created'])} old)")
    host = run_folder.other_host(run_folder.read_receipt(run.folder))
    if host is not None and not status.is_final:
        print(f"this is the last status that {host} recorded")
    if progress is not None:
        print(describe_progress(progress))
    if status is Status.finalizing and not launch.ends_with_its_command(command.run_config()):
        print(f"download its result: {command_line('follow', run.folder)}")
    if row["accuracy"] is not None:
        which = report.saved(training["saved_epoch"], len(training["history"]))
        accuracy = output.styled(percent(row["accuracy"]), "bold", sys.stdout)
        took = epochs_and_time(run_folder.result_of(run.folder), run_folder.read_receipt(run.folder))
        print(f"test accuracy {accuracy} after {took}{which}")
    print("".join(f"{line}\n" for line in report.describe_scores(run.folder, training)), end="")
    if row["error"] is not None:
        print(row["error"], row["hint"], sep="\n")
    if damage is not None:
        print(f"damaged: {damage}\nrebuild it: {command_line('resume', run.folder)}")
    return 0


def end_of(run: Run) -> dict[str, str]:
    """Return an unsuccessful run's error and hint, or nothing."""
    try:
        if run.status().is_final:  # or else another process has resumed it
            run.wait()
    except MnistCnnError as error:
        return {"error": error.message, "hint": error.hint}
    return {}


def cancel(command: Command) -> int:
    command.allow_only("runs_dir", "backend")
    run = command.run()
    cancel_it = f"cancel it: {command_line('cancel', run.folder)}"
    try:
        before = run.status()
        run.cancel()
        status = run.status()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {run.folder} may still be running", cancel_it) from None
    except BackendError as error:
        if shlex.quote(str(run.folder)) in error.hint:  # the backend's hint already names the next command
            raise
        hint = f"{error.hint}; then {cancel_it}" if error.hint else cancel_it
        raise BackendError(f"{error.message}; {run.folder} may still be running", hint) from error
    if command.as_json:
        report.print_json({"run": run.folder.name, "status": status.value})
    elif before.is_final:
        report.print_lossy(f"{run.folder} had already ended: {status.value}", sys.stdout)
    else:
        report.print_lossy(f"{run.folder} is {status.value}\n{report.next_command(run, status)}", sys.stdout)
    report.print_costs([run])
    return 0


def register(command: Command) -> int:
    command.allow_only("runs_dir", "backend", "register", "track")
    config = command.run_config()
    model = report.register_model(command.run(), config)
    if model is None:
        example = command_line("register", command.run_argument(), "register.name=mnist-cnn")
        hint = f"for example {example}"
        raise ConfigurationError("register needs a name", hint)
    if command.as_json:
        report.print_json(dataclasses.asdict(model))
    else:
        report.print_lossy(report.registered(model), sys.stdout)
    return 0


def cluster(command: Command) -> int:
    if len(command.words) != 1 or command.words[0] not in CLUSTER_ACTIONS:
        hint = f"for example {command_line('cluster', 'show', 'backend=azure')}"
        raise ConfigurationError(f"cluster needs one of {', '.join(CLUSTER_ACTIONS)}", hint)
    command.allow_only("backend")
    config = command.config()
    backend = launch.backend_of(config)
    if not isinstance(backend, HasCluster):
        hint = f"name a backend that has one: {command_line('cluster', command.words[0], 'backend=azure')}"
        raise ConfigurationError(f"backend={config.backend.name} has no cluster", hint)
    lines = []
    stream = sys.stderr if command.as_json else sys.stdout
    for line in backend.cluster(command.words[0]):
        lines.append(line)
        report.print_lossy(line, stream)
    if command.as_json:
        report.print_json(lines)
    return 0
