"""Disturbs one of several workers in each phase of a training, resumes it, and compares the weights.

At an exact point a worker kills or stops itself; or it waits there while the command gets Ctrl-C or SIGTERM,
or another command cancels the run. One run meets a fault in each phase and is resumed after each. Each fault
must end in time, with its exit code and no process left, and the run in the weights of one worker alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import signal
import tempfile
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from helpers.fault_points import Gate
from helpers.processes import end_of, result_of, run_command, start_command, wait_until, worker_of

from mnist_cnn.errors import BackendError, Interrupted, RunCancelled
from mnist_cnn.training.distributed.local_group import WORKER

from .ledger import add_shard

if TYPE_CHECKING:
    import subprocess

    from mnist_cnn.result import EpochRow, Result

JOB = (
    "data.train_limit=130", "data.test_limit=520", "train.batch_size=32", "train.epochs=2", "train.shards=6",
    "train.threads=1", "model.file=../network.py",
)  # fmt: skip
"""Five steps; three batches of test images, of which the last is smaller."""
NETWORK = """
import keras
from keras import layers


class Noise(layers.Layer):
    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


def build(config, input_shape, num_classes):
    convolution = [layers.Conv2D(4, 5, 4), layers.BatchNormalization(), layers.Flatten()]
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), Noise(), *convolution, out])
"""
"""Draws from Keras' global seed, which is not one of the network's variables."""
STEPS = 5
SECONDS = 40.0
"""Limit of the time from a fault to the end of the command, on a busy machine."""
SAVING = "epoch-000001.npz"


class Kind(StrEnum):
    """What happens to a worker, or to its run while the worker waits."""

    kill = "SIGKILL"
    stop = "SIGSTOP"
    interrupt = "Ctrl-C"
    terminate = "SIGTERM"
    cancel = "cancel"


EXIT_CODES = {
    Kind.kill: BackendError.exit_code,
    Kind.stop: BackendError.exit_code,
    Kind.interrupt: Interrupted.exit_code,
    Kind.terminate: Interrupted.exit_code,
    Kind.cancel: RunCancelled.exit_code,
}
PHASES = {
    "meeting": ("connect", 1),
    "fingerprint": ("all_gather", 1),
    "number of epochs": ("all_gather", 2),
    "gradients": ("all_reduce", 2),
    "evaluation": ("all_gather", 3),
    "end of an epoch": ("all_gather", 4),
    "saving": ("all_reduce", STEPS + 1),
    "state": ("all_gather", 3),
}
"""The points of the phases, in the order in which a run meets them that is resumed after each fault.

Worker 0 saves a checkpoint while the others wait for the next gradients. The next start is after that epoch.
"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of fault of worker `rank` in a phase."""

    kind: Kind
    rank: int
    phase: str

    def __str__(self) -> str:
        return f"{self.phase}: {self.kind} at worker {self.rank}"

    def gate(self, folder: Path) -> Gate:
        """Return the point that the worker meets."""
        kind = self.kind.name if self.kind in (Kind.kill, Kind.stop) else "wait"
        return Gate(folder, f"worker {self.rank}", *PHASES[self.phase], kind=kind)


def disturb(run: Path, words: Iterable[str], given: Fault) -> list[str]:
    """Start or resume a run, which meets a fault; return what went wrong."""
    gate = given.gate(run.parent)
    process = start_command(*words, cwd=run.parent, **gate.environment)
    wait_until(lambda: gate.is_reached, process)
    started = time.monotonic()
    _act(process, run, given)
    ended = end_of(process)
    seconds = time.monotonic() - started
    wrong = []
    if ended.code != EXIT_CODES[given.kind]:
        wrong.append(f"{given}: exit code {ended.code}: {ended.err}")
    if "resume" not in ended.err:
        wrong.append(f"{given}: nothing says how to resume: {ended.err}")
    if seconds > SECONDS:
        wrong.append(f"{given}: the command ended after {seconds:.0f} seconds")
    if left := _processes(run):
        wrong.append(f"{given}: left {left}")
        for one in left:
            one.kill()
    return wrong


def _act(process: subprocess.Popen[str], run: Path, given: Fault) -> None:
    if given.kind is Kind.interrupt:
        process.send_signal(signal.SIGINT)
    elif given.kind is Kind.terminate:
        process.send_signal(signal.SIGTERM)
    elif given.kind is Kind.cancel:
        run_command("cancel", str(run), cwd=run.parent)
    elif given.kind is Kind.stop and given.rank == 0:  # the run continues with it, and finds itself alone
        worker = worker_of(run)
        wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
        wait_until(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in worker.children()))
        worker.resume()


def _processes(run: Path) -> list[psutil.Process]:
    """Return the processes that train a run, after a moment in which they may end."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {WORKER, str(run)} <= set(process.info["cmdline"] or ())
    ]
    return psutil.wait_procs(found, timeout=5)[1]


def endure(
    home: Path, workers: int, faults: Iterable[Fault], last_workers: int, expected: Result
) -> list[str]:
    """Let one run meet faults one after the other, and complete; return what went wrong."""
    run = home / "run"
    words = [*JOB, f"run_dir={run}", f"backend.workers={workers}"]
    wrong = []
    for given in faults:
        wrong += disturb(run, words, given)
        words = ["resume", str(run), f"backend.workers={workers}"]
    ended = run_command("resume", str(run), f"backend.workers={last_workers}", cwd=home)
    if ended.code:
        return [*wrong, f"the last resume: {ended.err}"]
    found = result_of(run)
    if found.weights_sha256 != expected.weights_sha256:
        wrong.append(f"other weights: {found.weights_sha256}, not {expected.weights_sha256}")
    if [*map(measured, found.history)] != [*map(measured, expected.history)]:
        wrong.append(f"another history: {found.history}, not {expected.history}")
    return wrong


def measured(row: EpochRow) -> EpochRow:
    """Return a row without its time."""
    return dataclasses.replace(row, seconds=0.0)


def undisturbed(home: Path) -> Result:
    """Return the result of the job with one worker; write its network beside `home`."""
    (home.parent / "network.py").write_text(NETWORK, encoding="utf-8")
    ended = run_command(*JOB, "run_dir=alone", cwd=home)
    if ended.code:
        raise RuntimeError(ended.err)
    return result_of(home / "alone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this matrix's arguments."""
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[2, 3], metavar="N", help="2 and 3 by default"
    )
    add_shard(parser)


def run(chosen: argparse.Namespace) -> int:
    """Run the matrix; print a line for each run; return 1 if a promise was broken."""
    all_wrong = []
    with tempfile.TemporaryDirectory(prefix="workers-") as folder:
        (alone := Path(folder) / "alone").mkdir()
        expected = undisturbed(alone)
        for workers, kind in itertools.product(chosen.workers, Kind):
            for rank in (0, workers - 1):
                case = f"{workers} workers, {kind} at worker {rank}"
                if case in chosen.shard:
                    (home := Path(folder) / case.replace(", ", "-").replace(" ", "-")).mkdir()
                    wrong = endure(home, workers, [Fault(kind, rank, phase) for phase in PHASES], 1, expected)
                    state = "; ".join(wrong) or f"{len(PHASES)} faults, then the weights of one worker"
                    print(f"{case}: {state}", flush=True)
                    all_wrong += wrong
    return 1 if all_wrong else 0
