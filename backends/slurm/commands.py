"""Runs Slurm's programs and translates their errors.

They exit with 1 for almost every error, so their text decides: `REFUSALS` and `OUTAGES`.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from mnist_cnn.backends.remote.service import NOT_FOUND, ServiceError
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND_SECONDS = 60.0
SUBMIT_SECONDS = 120.0
"""Longer than sbatch's own retries.

It retries while the controller is too busy to accept a job.
"""
REFUSED, FORBIDDEN, CONFLICT = 400, 403, 409
"""Values of `ServiceError.status` for refusals.

An outage has no status.
"""
SLURM_CONF = "slurm_conf"
"""Key of SLURM_CONF's value in `place`."""
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
_CHANGING = re.compile(r"(?:SBATCH|SCANCEL|SCONTROL|SINFO|SLURM|SQUEUE)_")

ELSEWHERE = "run this on a machine that has Slurm's programs, such as the cluster's login node"
OTHER_PARTITION = "choose one of `sinfo -s` with backend.partition=NAME"
OUTAGES = (
    ("unable to contact slurm controller", "check that slurmctld runs: scontrol ping"),
    ("munge", "check that munged runs on this machine: munge -n | unmunge"),
    ("authentication error", "check that munged runs on this machine: munge -n | unmunge"),
    ("socket timed out|zero bytes were transmitted|communication connection failure", "try again"),
    ("in standby mode|temporarily unable|try again|resource temporarily unavailable", "try again"),
    ("connection refused|connection timed out|connection reset|no route to host", "check the network"),
)
"""Texts of an outage, and what to do."""
REFUSALS = (
    (r"unrecognized option|invalid option|ambiguous", REFUSED, "correct backend.sbatch; see man sbatch"),
    (
        r"invalid partition|partition \S+ not found",
        REFUSED,
        OTHER_PARTITION,
    ),
    (r"invalid account", REFUSED, "choose an account of yours in this partition with backend.account=NAME"),
    (r"invalid qos", REFUSED, "choose one that your account may use with backend.qos=NAME"),
    (
        r"accounting/qos policy|assoc\w*limit|qos\w*limit|job submit limit",
        CONFLICT,
        "wait until some of your jobs have ended, or ask for less: backend.cpus, backend.max_duration",
    ),
    (r"time limit", REFUSED, "lower backend.max_duration, or choose another backend.partition"),
    (
        r"generic resource|\bgres\b",
        REFUSED,
        "no node has the requested GPUs; choose backend.partition or backend.gpus",
    ),
    (r"memory specification", REFUSED, "lower backend.memory, or choose another backend.partition"),
    (
        r"node configuration|more processors|too many|invalid feature",
        REFUSED,
        "no node has that many resources; lower backend.cpus, backend.memory or backend.gpus",
    ),
    (
        r"permission denied|not permitted|user not in group",
        FORBIDDEN,
        "ask the cluster's administrators for access",
    ),
    (r"invalid job id|no job", NOT_FOUND, "it has ended, or it is another cluster's: check SLURM_CONF"),
    (
        r"configuration (?:file|source)|cannot stat file|clustername needs",
        REFUSED,
        "set SLURM_CONF to the cluster's slurm.conf",
    ),
)
"""Texts of a refusal, its status, and the hint."""


def environment(place: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Slurm's programs.

    It has no variables that change what they do or print, such as SBATCH_PARTITION and SQUEUE_FORMAT. So
    `plan` shows all that decides, and a process within a job can submit another one.
    """
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or not _CHANGING.match(name)}
    kept.pop("SLURM_CONF", None)
    if place.get(SLURM_CONF):
        kept["SLURM_CONF"] = place[SLURM_CONF]
    return kept


def run(
    words: Sequence[str],
    place: Mapping[str, str],
    *,
    what: str,
    content: bytes | None = None,
    seconds: float = COMMAND_SECONDS,
) -> str:
    """Return what a program prints; `what` completes "cannot".

    Raises:
        ConfigurationError: the program is not installed here.
        ServiceError: it failed, or was killed because it ran out of time.
    """
    try:
        ended = subprocess.run(
            words,
            env=environment(place),
            input=b"" if content is None else content,
            capture_output=True,
            timeout=seconds,
            check=False,
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
    except subprocess.TimeoutExpired as error:
        message = f"cannot {what}: {words[0]} did not answer in {seconds:.0f} seconds"
        raise ServiceError(message, OUTAGES[0][1], is_abandoned=True) from error
    except OSError as error:
        message = f"cannot {what}: {words[0]} cannot be started: {error.strerror}"
        if not isinstance(error, FileNotFoundError | PermissionError):  # no memory, too many processes
            raise ServiceError(message, "try again") from error
        raise ConfigurationError(message, ELSEWHERE) from error
    if ended.returncode < 0:
        message = f"cannot {what}: {words[0]} was killed by signal {-ended.returncode}"
        raise ServiceError(message, "try again", is_abandoned=True)
    if ended.returncode != 0:
        detail = (ended.stderr + b"\n" + ended.stdout).decode(errors="replace")
        raise translate(what, words[0], detail)
    return ended.stdout.decode(errors="replace")


def translate(what: str, program: str, detail: str) -> ServiceError:
    """Return the error for a failed program's output."""
    for pattern, hint in OUTAGES:
        if re.search(pattern, detail, re.IGNORECASE):
            return ServiceError(f"cannot {what}: {_reason(program, detail)}", hint, detail=detail)
    for pattern, status, hint in REFUSALS:
        if re.search(pattern, detail, re.IGNORECASE):
            message = f"cannot {what}: {_reason(program, detail)}"
            return ServiceError(message, hint, status=status, detail=detail)
    hint = f"see man {program}, or ask the cluster's administrators"
    return ServiceError(f"cannot {what}: {_reason(program, detail)}", hint, status=REFUSED, detail=detail)


def _reason(program: str, detail: str) -> str:
    """Return an error's lines as one, without prefixes."""
    lines = (re.sub(r"^\s*(?:\w+: )?(?:error: |fatal: )?", "", line) for line in detail.splitlines())
    said = dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("Try "))
    return "; ".join(list(said)[:4]) or f"{program} failed without a message"
