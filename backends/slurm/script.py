"""Turns a job and its configuration into Slurm's script.

Pure: needs no Slurm. The script holds no name of a run and no folder: `sbatch` gets both on its command line,
and the script finds them in SLURM_JOB_NAME and the current folder. So `plan` shows exactly what is sent.

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
import math
import shlex
import signal
import sys
from typing import TYPE_CHECKING

from mnist_cnn.backends import common
from mnist_cnn.backends.remote import node, snapshot, workers
from mnist_cnn.backends.remote.node import FAILURE
from mnist_cnn.config import Numerics
from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnist_cnn.backends.remote.snapshot import SentFile
    from mnist_cnn.backends.slurm.config import SlurmConfig
    from mnist_cnn.job import Job

CODE, DATA = "code", "data"
JOB, CHECKPOINTS, MARKER, SCRIPT = "job", "checkpoints", "marker", "script.sh"
OWNER, EXIT, SLURM_OUTPUT = "owner", "exit", "slurm.out"
CHECKPOINTS_HERE, CHECKPOINTS_THERE = "CHECKPOINTS", f'"../$(cat {CHECKPOINTS})"'
UNSUITABLE = 78
"""Exit code of a node that can't train.

EX_CONFIG of sysexits.h.
"""
NOT_OWNER = 79
"""Exit code of the script if another job trains."""
WORKER_LOST = 75
"""Exit code if one of several workers was killed.

EX_TEMPFAIL of sysexits.h.
"""
SHELL_SIGNAL = 128
"""Added by a shell or srun to a signal."""
SHELL_SIGTERM = SHELL_SIGNAL + signal.SIGTERM
"""Exit code of a script that SIGTERM ended."""
FIRST_PORT, PORT_RANGE, PORTS = 10_000, 20_000, 8
"""The ports of all runs.

They are below those that Linux gives to any program. Worker 0 may try PORTS of them.
"""
SIGNAL_SECONDS = 60
"""How long before the time limit Slurm sends SIGTERM."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sent for a job, or checked first."""

    script: str
    token: str
    data_files: tuple[SentFile, ...]
    code: tuple[SentFile, ...]
    partition: str | None
    max_minutes: int
    workers: int


def request(job: Job, config: SlurmConfig, *, force: bool = False, pause_after: int | None = None) -> Request:
    """Return the request; see `node.arguments` for `force` and `pause_after`.

    Raises:
        ConfigurationError: the job is too long, is exact and would train on a GPU, or cannot be shared by
            this number of workers.
        DataError: a data file is missing.
        BackendError: the code is too large to be copied.
    """
    common.check_workers(job, config.workers)
    if config.gpus and job.train.numerics is Numerics.exact:
        message = f"train.numerics=exact trains on the CPU only, but backend.gpus={config.gpus}"
        raise ConfigurationError(message, "set backend.gpus=0, or train.numerics=native")
    words = node.arguments(
        job,
        DATA,
        CHECKPOINTS_HERE,
        device="gpu" if config.gpus else "cpu",
        force=force,
        workers=config.workers,
        pause_after=pause_after,
    )
    _, token, *others = words
    return Request(
        script=script(config, others),
        token=token,
        data_files=snapshot.data_files(job.data),
        code=snapshot.files(),
        partition=config.partition,
        max_minutes=config.max_duration,
        workers=config.workers,
    )


def command(run_id: str, folder: str) -> list[str]:
    """Return the command that submits a script from stdin."""
    words = ["sbatch", "--parsable", f"--job-name={run_id}", f"--chdir={folder}"]
    # Slurm replaces patterns such as %j in the whole path of its output, also in the folder's name.
    return [*words, "--output=/dev/null"] if {"%", "\\"} & {*folder} else words


def describe(request: Request) -> tuple[tuple[str, str], ...]:
    """Return labels and values that describe a request."""
    size = sum(file.bytes for file in request.code)
    data = ", ".join(f"{file.name} {file.bytes:,} B" for file in request.data_files)
    several = (("workers", f"{request.workers} tasks; Slurm chooses their nodes"),)
    return (
        *(several if request.workers > 1 else ()),
        ("command", shlex.join(command("RUN_ID", "RUN/node/RUN_ID"))),
        ("code", f"{len(request.code)} files, {size:,} B, copied to RUN/node/RUN_ID/{CODE}"),
        ("data files", f"copied to RUN/node/RUN_ID/{DATA}: {data}"),
        ("job file", f"{len(request.token):,} characters in RUN/node/RUN_ID/{JOB}: job.json in base64"),
        ("script", f"\n{'':<11} ".join(request.script.splitlines())),
    )


def script(config: SlurmConfig, arguments: Sequence[str]) -> str:
    """Return the script's text.

    `arguments` are the trainer's, without the job.
    """
    python = config.python or sys.executable
    if not python.isprintable():
        raise BackendError(f"the path of Python has a control character: {python!r}", "set backend.python")
    hint = "set backend.python to a Python that all nodes have, or install it there"
    no_python = _failing(f"has no Python {python}", hint)
    many = f"starts the run again, more often than backend.preemption_retries={config.preemption_retries}"
    launcher: list[str] = []
    ending: list[str] = []
    stop = 'kill -TERM "$trainer"'
    if config.workers > 1:
        launcher, ending = _launcher(config, no_python), _ending()
        stop = 'scancel --signal=TERM "$SLURM_JOB_ID"'  # at SIGTERM, srun would kill the workers
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
        f"trap 'signalled=true; [ -z \"$trainer\" ] || {stop}' TERM",
        "",
        f'[ "$start" -le {config.preemption_retries} ] || {_failing(many, "resume the run")}',
        "here=$PWD",
        *_setup(config.setup),
        'cd "$here" || exit',
        f'[ "$signalled" = false ] || exit {SHELL_SIGTERM}',
        f"python={shlex.quote(python)}",
        f'command -v "$python" > /dev/null || {no_python}',
        f'export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/{CODE}"',
        *launcher,
        f'"$python" -P -m {node.__name__} --job "$(cat {JOB})" --run "$SLURM_JOB_NAME" \\',
        f"  --finish-epoch true {' '.join(arguments).replace(CHECKPOINTS_HERE, CHECKPOINTS_THERE)} &",
        "trainer=$!",
        'echo "$HOSTNAME $trainer" > trainer',
        'while wait "$trainer"; kill -0 "$trainer" 2> /dev/null; do :; done  # a signal interrupts wait',
        'wait "$trainer"',
        *ending,
    ]
    return "\n".join(lines) + "\n"


def _launcher(config: SlurmConfig, no_python: str) -> list[str]:
    """Return the lines that start each of several workers.

    They stand before the trainer's command. Worker 0 is on the script's node. The others reach it at the
    address that Slurm uses, because a node's name may lead to 127.0.1.1. The token is in no file and no
    command line.
    """
    is_shared = f'[ "$(cat {MARKER})" = "$SLURM_JOB_NAME" ]'
    hint = "start runs in a folder that all nodes share: runs_dir=FOLDER"
    return [
        f"command -v srun > /dev/null || {_failing('has no srun', 'backend.workers needs it on each node')}",
        "host=127.0.0.1 last=$((SLURM_JOB_NUM_NODES - 1))",
        '[ "$last" = 0 ] || host=$(srun --export=ALL --mpi=none --overlap --nodes=1 --ntasks=1 \\',
        """  --relative="$last" /bin/bash -c 'echo "$SLURM_LAUNCH_NODE_IPADDR"') || """
        + _failing("cannot start a program on the run's other nodes", "the log says why"),
        "host=${host##*$'\\n'}  # the cluster may print something before it",
        f"first=$(({FIRST_PORT} + (SLURM_JOB_ID * {PORTS} + start) % {PORT_RANGE}))",
        "worker() {",
        "  node=$SLURMD_NODENAME",
        f"  {is_shared} || {_failing('does not see the folder of the run', hint)}",
        f'  command -v "$1" > /dev/null || {no_python}',
        f'  {workers.RANK}=$SLURM_PROCID exec "$@"',
        "}",
        "export -f fail worker",
        "node=$SLURM_JOB_NODELIST",
        f'{workers.HOST}=$host {workers.PORTS}=$(seq -s " " "$first" "$((first + {PORTS} - 1))") \\',
        f"  {workers.TOKEN}=$(head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \\n') \\",
        f"  srun --export=ALL --mpi=none --ntasks={config.workers} --cpus-per-task={config.cpus} \\",
        # A worker that fails ends the others; one that ends early, as all but the first do, does not.
        "  --kill-on-bad-exit=1 --wait=0 /bin/bash -c 'worker \"$@\"' worker \\",
    ]


def _ending() -> list[str]:
    """Return lines that distinguish killed workers from failed ones."""
    return ["code=$?", f'[ "$code" -le {SHELL_SIGNAL} ] || exit {WORKER_LOST}', 'exit "$code"']


def options(config: SlurmConfig) -> list[str]:
    """Return the options in the script's first lines."""
    given = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        **_memory(config),
        "gres": f"gpu:{config.gpus}" if config.gpus else None,
    }
    return [
        f"--output={SLURM_OUTPUT}",
        "--open-mode=append",
        # The environment of the process that submits must not decide the weights.
        "--export=NIL",
        *(["--nodes=1"] if config.workers == 1 else []),
        f"--ntasks={config.workers}",
        f"--cpus-per-task={config.cpus}",
        f"--time={config.max_duration}",
        f"--signal=B:TERM@{SIGNAL_SECONDS}",
        "--requeue" if config.preemption_retries else "--no-requeue",
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
        *config.sbatch,
    ]


def _memory(config: SlurmConfig) -> dict[str, str]:
    """Return the option for each worker's memory.

    Slurm may put any number of workers on a node.
    """
    if config.memory is None:
        return {}
    if config.workers == 1:
        return {"mem": f"{config.memory}G"}
    return {"mem-per-cpu": f"{math.ceil(config.memory * 1024 / config.cpus)}M"}


def _setup(commands: Iterable[str]) -> list[str]:
    """Return the set-up commands, each with its error handling."""
    hint = "correct backend.setup; the log has its output"
    return [
        line
        for each in commands
        for line in (each, f"[ $? = 0 ] || {_failing(f'cannot run backend.setup: {each}', hint)}")
    ]


def _failing(what: str, hint: str) -> str:
    """Return the command that logs a failure and exits."""
    message, hint = (shlex.quote(json.dumps(text)[1:-1]) for text in (what, hint))
    return f'fail {BackendError.exit_code} "node $node "{message} {hint}'


def _record() -> str:
    """Return the command that writes how the script ended."""
    fields = '{"job": %s, "start": %s, "node": "%s", "code": %s, "signalled": %s, "near_limit": %s}'
    values = '"$SLURM_JOB_ID" "$start" "$node" "$code" "$signalled" "$near"'
    return f"  printf '{fields}\\n' {values} > {EXIT}.tmp"
