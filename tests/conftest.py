"""Fixtures for all tests: one small completed run, and one loopback Azure ML service."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from helpers import searches
from helpers.processes import SMALL, Ended, run_successfully, start

from mnist_cnn import cpu
from mnist_cnn.training.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    from loopback import AzureService

cpu.enable_onednn()  # as the trainer does, for tests that use TensorFlow in this process
# A shell lets its background jobs ignore Ctrl-C; the processes that tests start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder of a completed small run, and what its command printed."""
    home = tmp_path_factory.mktemp("small")
    return home / "run", run_successfully(*SMALL, "run_dir=run", "save_h5=true", cwd=home)


@pytest.fixture(scope="session")
def small_run(small_command: tuple[Path, Ended]) -> Path:
    """The folder of a completed small run, which no test may change."""
    return small_command[0]


@pytest.fixture(scope="session")
def local_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a small search here, and its answer as JSON."""
    home = tmp_path_factory.mktemp("search")
    return home / "found", run_successfully(*searches.SEARCH, "--json", cwd=home).json()


@pytest.fixture(scope="module")
def unmeasured() -> Iterator[None]:
    """Start this module's processes without coverage, which costs two seconds a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a command line in the test's folder; stop them all afterwards."""
    processes: list[subprocess.Popen[str]] = []

    def start_here(*words: str, **environment: str) -> subprocess.Popen[str]:
        processes.append(start(*words, cwd=tmp_path, **environment))
        return processes[-1]

    yield start_here
    for process in processes:
        process.kill()
        process.communicate()
    from mnist_cnn import launch

    for receipt in tmp_path.rglob("run.json"):
        launch.attach_to(receipt.parent).cancel()


@pytest.fixture(scope="session")
def azure_started() -> Iterator[AzureService]:
    """The loopback service of the whole session, which stores its data in a temporary folder."""
    from loopback import AzureService

    with (
        tempfile.TemporaryDirectory(prefix="azure-service-") as folder,
        AzureService(Path(folder)) as service,
    ):
        yield service
        service.check()


@pytest.fixture(scope="module")
def azure_environment(azure_started: AzureService) -> Iterator[AzureService]:
    """The service, with the environment variables that lead this process and its children to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in azure_started.environment.items():
            patch.setenv(name, value)
        yield azure_started


@pytest.fixture
def azure(azure_environment: AzureService) -> Iterator[AzureService]:
    """The service without injected faults; its requests are checked against the documents afterwards."""
    from loopback import Behaviour

    _check_against_documents(azure_environment)
    yield azure_environment
    for run in azure_environment.runs.all():  # that a failed test left running
        azure_environment.runs.cancel(run.run_id)
    azure_environment.faults.clear()
    azure_environment.clusters.behaviour = Behaviour()
    _check_against_documents(azure_environment)


def _check_against_documents(service: AzureService) -> None:
    """Check the recorded requests against the documents, and forget them."""
    try:
        service.check()
    finally:
        service.requests.clear()


@pytest.fixture
def notebook_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for a notebook's runs. The kernel's own files are outside it."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = tmp_path / "notebook"
    folder.mkdir()
    yield folder
    import mnist_cnn

    for receipt in folder.glob("*/run.json"):  # that a failed test left running
        mnist_cnn.attach(str(receipt.parent)).cancel()


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    """Keras in this process, with deterministic operations as in a training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf = import_tensorflow()
        import keras

        tf.config.experimental.enable_op_determinism()
        module: ModuleType = keras
        return module
