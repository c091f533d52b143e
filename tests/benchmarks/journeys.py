"""One hash on every backend: a job that is ended twice, and each time goes on somewhere else.

Each journey begins on one backend, is ended there after an epoch, goes on on the second, is ended again, and
is completed on the third. The local trainer is killed; a run on a cluster is cancelled. Azure is the loopback
service, Slurm a real one that is started for this. All orders end in the weights of the undisturbed job. The
exit code is 1 if a journey has other weights.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mnist_cnn import backend, launch, run_folder
from mnist_cnn.errors import MnistCnnError

from .comparison import Comparison
from .identity import INSTALL_AZURE, TESTS, has_cluster
from .machine import CommandError
from .processors import Hashes
from .report import print_progress

OPTIONS: dict[str, dict[str, Any]] = {}
JOB = (
    "data.train_limit=2000",
    "data.test_limit=1000",
    "train.epochs=8",
    "train.threads=1",
    "train.precision=float32",
)
SECONDS = 300.0
"""How long one stage may take."""


def run(arguments: argparse.Namespace) -> list[Comparison]:  # noqa: ARG001 - as of every benchmark
    """Train the job undisturbed, then on each journey."""
    sys.path += [str(TESTS), str(TESTS / "azure")]  # for the loopback service and the Slurm cluster
    found: dict[str, Hashes] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        home = Path(folder)
        home.chmod(0o755)
        places, missing = _places(home, stack)
        undisturbed = launch.submit("backend=local", *JOB, f"run_dir={home / 'undisturbed'}").wait()
        expected = {"job": undisturbed.weights_sha256}
        found["backend=local, undisturbed"] = Hashes(undisturbed.precision, expected)
        for order in itertools.permutations(places):
            name = ", then ".join(order)
            try:
                weights = _journey(order, places, home / "-".join(order))
                found[name] = Hashes(undisturbed.precision, {"job": weights})
            except (CommandError, MnistCnnError) as error:
                failed[name] = str(error)
            print_progress(name)
    return [Comparison("weights of one job, ended twice", expected, found, missing, failed)]


def _places(home: Path, stack: ExitStack) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the overrides of each backend that can be used here, and why others can't."""
    from helpers import slurm_cluster

    places: dict[str, tuple[str, ...]] = {"local": ("backend=local",)}
    missing = {}
    if has_cluster("v1"):
        from loopback import AzureService

        service = stack.enter_context(AzureService(home / "azure"))
        stack.enter_context(_environment(service.environment))
        places["azure"] = ("backend=azure", "backend.sdk=v1", f"backend.workspace={service.home}")
    else:
        missing["azure"] = INSTALL_AZURE
    if reason := slurm_cluster.missing():
        missing["slurm"] = reason
    else:
        cluster = stack.enter_context(slurm_cluster.SlurmCluster(home / "slurm"))
        stack.enter_context(_environment(cluster.environment))
        places["slurm"] = ("backend=slurm", "backend.cpus=2")
    return places, missing


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    yield
    os.environ.clear()
    os.environ.update(before)


def _journey(order: Sequence[str], places: Mapping[str, tuple[str, ...]], folder: Path) -> str:
    """Train on each backend in turn; return the weights. Raises CommandError if a stage ended too early."""
    run = launch.submit(*places[order[0]], *JOB, f"run_dir={folder}")
    for place in order[1:]:
        _end_after_an_epoch(run)
        run = launch.resume(str(folder), *places[place])
    weights = run.wait().weights_sha256
    if (folder / run_folder.LOG).read_text(errors="replace").count("resuming after epoch") < len(order) - 1:
        raise CommandError("a stage began anew, not with the checkpoint of the one before")
    return weights


def _end_after_an_epoch(run: backend.Run) -> None:
    """Wait until another epoch is in the history, then kill or cancel the run."""
    deadline, before = time.monotonic() + SECONDS, len(run_folder.read_history(run.folder))
    while len(run_folder.read_history(run.folder)) <= before:
        if run.status().is_final or time.monotonic() > deadline:
            raise CommandError(f"the run is {run.status().value}, and no epoch was added")
        time.sleep(0.1)
    pid = run_folder.read_receipt(run.folder).pid
    if pid is None:
        run.cancel()
        return
    os.kill(pid, signal.SIGKILL)
    while not run.status().is_final:
        time.sleep(0.1)
