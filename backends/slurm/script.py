"""Turns a job and its configuration into the script that Slurm runs. Pure: needs no Slurm.

The script holds no name of a run and no folder: `sbatch` gets both on its command line, and the script finds
them in SLURM_JOB_NAME and the current folder. So `plan` shows exactly what is sent.

Each start of a run has a folder of its own, RUN/node/ID, which is the script's current folder:

    code/ data/        copies of the package and of the four data files
    job checkpoints    the encoded job, and the checkpoints' folder relative to RUN/node
    script.sh          a copy of the script, for people
    cancelled          empty; this package has asked for the end
    marker             the run's id; written last
    owner              the id of the Slurm job that trains; a second job of the same name ends at once
    trainer            the host and the process that train
    log-N.txt          what the trainer printed after Slurm requeued the run N times
    outputs/           what the training wrote
    exit               how the script ended, as JSON
    slurm.out          what Slurm itself printed
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING

from mnist_cnn.backends.remote import node, snapshot
from mnist_cnn.backends.remote.node import FAILURE
from mnist_cnn.config import Numerics
from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnist_cnn.backends.remote.snapshot import SentFile
    from mnist_cnn.backends.slurm.config import SlurmConfig
    from mnist_cnn.job import Job

CODE, DATA, OUTPUTS = "code", "data", "outputs"
JOB, CHECKPOINTS, MARKER, SCRIPT = "job", "checkpoints", "marker", "script.sh"
OWNER, EXIT, SLURM_OUTPUT = "owner", "exit", "slurm.out"
CHECKPOINTS_HERE, CHECKPOINTS_THERE = "CHECKPOINTS", f'"../$(cat {CHECKPOINTS})"'
UNSUITABLE = 78
"""The script's exit code if the node cannot train: EX_CONFIG of sysexits.h."""
NOT_OWNER = 79
"""The script's exit code if another job of the same name trains the run."""
SHELL_SIGTERM = 143
"""The exit code of a script that SIGTERM has ended."""
SIGNAL_SECONDS = 60
"""How long before the time limit Slurm sends SIGTERM."""


@dataclasses.dataclass(frozen=True)
class Request:
    """All that is sent for a job: the script, the encoded job, the files to copy; what is checked first."""

    script: str
    token: str
    data_files: tuple[SentFile, ...]
    code: tuple[SentFile, ...]
    partition: str | None
    max_minutes: int


def request(job: Job, config: SlurmConfig, *, force: bool = False) -> Request:
    """Return the request for a job; `force` resumes even if the job or the runtime has changed.

    Raises:
        ConfigurationError: the job is too long, or is exact and would train on a GPU.
        DataError: a data file is missing.
        BackendError: the code is too large to be copied.
    """
    if config.gpus and job.train.numerics is Numerics.exact:
        message = f"train.numerics=exact trains on the CPU only, but backend.gpus={config.gpus}"
        raise ConfigurationError(message, "set backend.gpus=0, or train.numerics=native")
    device = "gpu" if config.gpus else "cpu"
    _, token, *others = node.arguments(job, DATA, CHECKPOINTS_HERE, device=device, force=force)
    return Request(
        script=script(config, others),
        token=token,
        data_files=snapshot.data_files(job.data),
        code=snapshot.files(),
        partition=config.partition,
        max_minutes=config.max_duration,
    )


def command(run_id: str, folder: str) -> list[str]:
    """Return the command that submits a script on its standard input."""
    words = ["sbatch", "--parsable", f"--job-name={run_id}", f"--chdir={folder}"]
    # Slurm replaces patterns such as %j in the whole path of its output, also in the folder's name.
    return [*words, "--output=/dev/null"] if {"%", "\\"} & {*folder} else words


def describe(request: Request) -> tuple[tuple[str, str], ...]:
    """Return labels and values that describe a request to a user."""
    size = sum(file.bytes for file in request.code)
    data = ", ".join(f"{file.name} {file.bytes:,} B" for file in request.data_files)
    return (
        ("command", shlex.join(command("RUN_ID", "RUN/node/RUN_ID"))),
        ("code", f"{len(request.code)} files, {size:,} B, copied to RUN/node/RUN_ID/{CODE}"),
        ("data files", f"copied to RUN/node/RUN_ID/{DATA}: {data}"),
        ("job file", f"{len(request.token):,} characters in RUN/node/RUN_ID/{JOB}: job.json in base64"),
        ("script", f"\n{'':<11} ".join(request.script.splitlines())),
    )


def script(config: SlurmConfig, arguments: Sequence[str]) -> str:
    """Return the whole text of the script; `arguments` are the trainer's, without the job."""
    python = config.python or sys.executable
    if not python.isprintable():
        raise BackendError(f"the path of Python has a control character: {python!r}", "set backend.python")
    hint = "set backend.python to a Python that all nodes have, or install it there"
    no_python = _failing(f"has no Python {python}", hint)
    many = f"starts the run again, more often than backend.preemption_retries={config.preemption_retries}"
    lines = [
        "#!/bin/bash -l",
        *(f"#SBATCH {option}" for option in options(config)),
        "",
        "node=${SLURMD_NODENAME:-$HOSTNAME} start=${SLURM_RESTART_COUNT:-0}",
        f'[ "$(cat {MARKER})" = "$SLURM_JOB_NAME" ] || exit {UNSUITABLE}  # not the run\'s folder',
        f'(set -o noclobber; echo "$SLURM_JOB_ID" > {OWNER}) 2> /dev/null',
        f'[ "$(cat {OWNER})" = "$SLURM_JOB_ID" ] || exit {NOT_OWNER}  # submitted twice',
        f"rm -f {EXIT}",
        'exec >> "log-$start.txt" 2>&1',
        "",
        "signalled=false trainer=",
        "finish() {",
        "  code=$?",
        f"  near=$((SECONDS + 2 * {SIGNAL_SECONDS} >= {config.max_duration * 60}))",
        _record(),
        f"  mv {EXIT}.tmp {EXIT}",
        "}",
        "fail() {  # exit code, message, hint",
        f"""  printf '\\n{FAILURE}{{"exit_code": %s, "error": "%s", "hint": "%s"}}\\n' "$@\"""",
        f"  exit {UNSUITABLE}",
        "}",
        "trap finish EXIT",
        'trap \'signalled=true; [ -z "$trainer" ] || kill -TERM "$trainer"\' TERM',
        "",
        f'[ "$start" -le {config.preemption_retries} ] || {_failing(many, "resume the run")}',
        "here=$PWD",
        *_setup(config.setup),
        'cd "$here" || exit',
        f'[ "$signalled" = false ] || exit {SHELL_SIGTERM}',
        f"python={shlex.quote(python)}",
        f'command -v "$python" > /dev/null || {no_python}',
        f'export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/{CODE}"',
        f'"$python" -P -m {node.__name__} --job "$(cat {JOB})" --run "$SLURM_JOB_NAME" \\',
        f"  --finish-epoch true {' '.join(arguments).replace(CHECKPOINTS_HERE, CHECKPOINTS_THERE)} &",
        "trainer=$!",
        'echo "$HOSTNAME $trainer" > trainer',
        'while wait "$trainer"; kill -0 "$trainer" 2> /dev/null; do :; done  # a signal interrupts wait',
        'wait "$trainer"',
    ]
    return "\n".join(lines) + "\n"


def options(config: SlurmConfig) -> list[str]:
    """Return the options in the script's first lines."""
    given = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "mem": None if config.memory is None else f"{config.memory}G",
        "gres": f"gpu:{config.gpus}" if config.gpus else None,
    }
    return [
        f"--output={SLURM_OUTPUT}",
        "--open-mode=append",
        # The environment of the process that submits must not decide the weights.
        "--export=NIL",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={config.cpus}",
        f"--time={config.max_duration}",
        f"--signal=B:TERM@{SIGNAL_SECONDS}",
        "--requeue" if config.preemption_retries else "--no-requeue",
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
        *config.sbatch,
    ]


def _setup(commands: Iterable[str]) -> list[str]:
    """Return the set-up commands, each followed by what happens if it fails."""
    hint = "correct backend.setup; the log has its output"
    return [
        line
        for each in commands
        for line in (each, f"[ $? = 0 ] || {_failing(f'cannot run backend.setup: {each}', hint)}")
    ]


def _failing(what: str, hint: str) -> str:
    """Return the command that prints a failure in the log's format, and ends the script."""
    message, hint = (shlex.quote(json.dumps(text)[1:-1]) for text in (what, hint))
    return f'fail {BackendError.exit_code} "node $node "{message} {hint}'


def _record() -> str:
    """Return the command that writes how the script ended."""
    fields = '{"job": %s, "start": %s, "node": "%s", "code": %s, "signalled": %s, "near_limit": %s}'
    values = '"$SLURM_JOB_ID" "$start" "$node" "$code" "$signalled" "$near"'
    return f"  printf '{fields}\\n' {values} > {EXIT}.tmp"
