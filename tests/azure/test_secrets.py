"""No key, signature, password or token leaks from a run on the cluster, whatever fails.

One series of commands runs through submission, result, registration and every kind of failure, with secrets
all around and a service that repeats them in its errors. Then everything that was printed, written, sent,
stored or shown is searched.
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import ENDLESS, SDK_TESTS, TINY, V2_TESTS, chosen, copy_package, read_until
from helpers.processes import command, wait_for_line
from helpers.secret_flow import SECRET_FILES, WRONG_PASSWORD, Flow
from helpers.secret_scan import CRASHING_NETWORK
from loopback import Fault
from loopback.messages import Request
from loopback.tenancy import API

from mnist_cnn import run_folder
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.errors import BackendError, MnistCnnError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

pytestmark = SDK_TESTS[1:]
SDKS = [pytest.param(Sdk.v1, marks=[SDK_TESTS[0], pytest.mark.long]), pytest.param(Sdk.v2, marks=V2_TESTS[0])]
REQUESTS = {
    Sdk.v1: {
        "submit": ("POST", "snapshotrun"),
        "find": ("GET", "/history/.*/runs/"),
        "datastore": ("GET", "/datastore/"),
        "register": ("POST", "/models$"),
    },
    Sdk.v2: {
        "submit": ("PUT", "/jobs/"),
        "find": ("GET", "/jobs/"),
        "datastore": ("GET", "/datastores"),
        "register": ("PUT", "/models/"),
    },
}
"""The requests that fail."""

FOUR_FAILURES = """
import os, sys, traceback
import mnist_cnn
from mnist_cnn.errors import MnistCnnError

def chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

def print_error(*overrides):
    try:
        mnist_cnn.submit(*sys.argv[1:], *overrides)
    except MnistCnnError as error:
        print("".join(traceback.format_exception(error)))
        for link in chain(error):
            print(str(link), repr(link), link.args, vars(link))
    else:
        sys.exit("submit succeeded")

right = os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"]
os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] = os.environ["WRONG_PASSWORD"]
print_error("run_dir=failed0")
print_error("run_dir=failed1")
os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] = right
print_error("run_dir=failed2")
print_error("run_dir=failed3")
"""


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    return Sdk(request.param)


@pytest.fixture(scope="module")
def flow(
    sdk: Sdk, azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flow]:
    """All commands, run once for each SDK."""
    azure, folder = azure_environment, tmp_path_factory.mktemp("secrets")
    copy_package(folder / "site")
    flow = Flow.prepare(azure, folder)
    (flow.work / "crash.py").write_text(CRASHING_NETWORK)
    try:
        with flow.recorded():
            _run_all_commands(flow, sdk)
        yield flow
    finally:
        for run in azure.runs.all():
            azure.runs.cancel(run.run_id)
        azure.faults.clear()
        azure.requests.clear()


def _run_all_commands(flow: Flow, sdk: Sdk) -> None:
    azure, requests = flow.azure, REQUESTS[sdk]
    send_again = "backend.data.overwrite=true"
    job = (
        *chosen(azure),
        f"backend.sdk={sdk}",
        *TINY,
        "model=compact",
        "run_dir=run",
    )  # small files are searched faster
    wrong = {"AZUREML_SERVICE_PRINCIPAL_PASSWORD": WRONG_PASSWORD}

    assert flow.run("plan", *job, expected="snapshot") == 0
    assert flow.run(*job, "run_dir=wrong", expected="AADSTS7000215", **wrong) == BackendError.exit_code

    refusal = Fault("PUT", r"blob\.core.*mnist/t10k-labels", status=403, times=0, echoes=True)
    azure.faults.add(refusal)
    assert flow.run(*job, send_again, expected="cannot send mnist/t10k-labels") == BackendError.exit_code
    azure.faults.clear()

    assert flow.run("resume", "run", "register.name=null", expected="completed: ") == 0
    assert flow.run("status", "run", "--json", expected='"completed"') == 0
    azure.faults.add(Fault(*requests["register"], status=403, echoes=True))
    registered = (f"register.name=scanned{sdk}", "register.min_accuracy=0")
    assert flow.run("register", "run", *registered, expected="cannot register") == BackendError.exit_code
    assert flow.run("register", "run", *registered, expected=f"scanned{sdk} version 1") == 0

    crash = ("model.file=crash.py", "run_dir=crash")
    assert flow.run(*job, *crash, expected="the environment is") == MnistCnnError.exit_code
    _fail_while_following(flow, job, requests)
    _fail_in_python(flow, job, requests)


def _fail_while_following(flow: Flow, job: tuple[str, ...], requests: dict[str, tuple[str, str]]) -> None:
    """Follow a run while its token expires, its log is refused and the user interrupts; then cancel it."""
    azure = flow.azure
    process = flow.start(command(*job, *ENDLESS, "run_dir=endless"))
    wait_for_line(flow.work / "endless", "epoch 1/", process)  # the node trains, with its own token
    azure.faults.add(Fault(*requests["find"], status=401, times=0, echoes=True))
    assert flow.end(process, "the run is still running") == BackendError.exit_code
    azure.faults.clear()
    azure.faults.add(Fault("GET", r"blob\.core.*std_log", status=403, times=0, echoes=True))
    process = flow.start(command("follow", "endless"))
    printed = read_until("cannot read the node's log", process)
    flow.printed.append(("the output of follow endless", printed.encode()))
    process.send_signal(signal.SIGINT)
    assert flow.end(process, "detached") == 130
    azure.faults.clear()
    assert flow.run("cancel", "endless", expected="cancelled") == 0


def _fail_in_python(flow: Flow, job: tuple[str, ...], requests: dict[str, tuple[str, str]]) -> None:
    flow.azure.faults.add(
        Fault("POST", "/token$", kind="drop"),
        Fault(*requests["datastore"], status=403, echoes=True),
        Fault(*requests["submit"], status=400, times=0, echoes=True),
    )
    line = [sys.executable, "-P", "-c", FOUR_FAILURES, *job[:-1]]
    assert flow.end(flow.start(line), "cannot submit the run") == 0
    flow.azure.faults.clear()


def test_nothing_that_was_printed_holds_a_secret(flow: Flow) -> None:
    assert len(flow.printed) >= 12
    assert not flow.scan.leaks(flow.printed)


def test_nothing_that_was_written_holds_a_secret(flow: Flow) -> None:
    assert len(list(flow.files())) > 20
    assert not flow.scan.leaks(flow.files())


def test_nothing_that_was_sent_holds_a_secret(flow: Flow) -> None:
    assert len(flow.sent) > 50
    assert not flow.scan.leaks(flow.sent)


def test_nothing_that_was_stored_holds_a_secret(flow: Flow) -> None:
    assert not flow.scan.leaks(flow.blobs())


def test_nothing_that_the_service_shows_holds_a_secret(flow: Flow) -> None:
    assert not flow.scan.leaks(flow.documents())


def test_no_process_title_holds_a_secret(flow: Flow) -> None:
    assert any("-m mnist_cnn" in title for title in flow.titles)
    assert any("entry.py" in title for title in flow.titles)
    assert not flow.scan.leaks(flow.named_titles())


def test_the_code_is_the_packages_files_and_no_others(flow: Flow, sdk: Sdk, tmp_path: Path) -> None:
    run, handlers = flow.azure.runs[run_folder.read_receipt(flow.work / "run").id], flow.azure.handlers
    definition = run.definition or {}
    if sdk is Sdk.v1:
        names = list(handlers.snapshots.files(definition["snapshotId"]))
    else:
        handlers.v2.assets.unpack(definition["arm"]["codeId"], tmp_path)
        names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert {"entry.py", "mnist_cnn/conf/config.yaml", "mnist_cnn/backends/remote/run.py"} <= set(names)
    package = Path(run_folder.__file__).parent
    sources = {f"mnist_cnn/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} >= sources
    secret = {Path(name).name for name in SECRET_FILES}
    assert not [name for name in names if Path(name).name in secret]
    assert {Path(name).suffix for name in names} == {".py", ".toml", ".yaml"}


def test_a_leak_is_found_wherever_it_is(flow: Flow) -> None:
    """Leak a secret into everything that the tests above search; runs last, because it spoils the flow."""
    secret, azure = flow.azure.tenancy.client_secret, flow.azure
    flow.end(flow.start([sys.executable, "-c", "import os; print(os.environ['S'])"], S=secret))
    assert flow.scan.leaks(flow.printed)

    (flow.root / "home" / "cache").write_text(json.dumps({"secret": secret}))
    assert flow.scan.leaks(flow.files())

    azure.blobs.put("azureml", "leak", gzip.compress(secret.encode()))
    assert flow.scan.leaks(flow.blobs())
    azure.blobs.delete("azureml", "leak")

    run = azure.runs[flow.run_ids[0]]
    run.document["tags"]["leak"] = secret
    assert flow.scan.leaks(flow.documents())
    del run.document["tags"]["leak"]

    sleeper = subprocess.Popen([sys.executable, "-c", "input()", secret], stdin=subprocess.PIPE)
    flow.record_titles()
    sleeper.communicate(timeout=60)
    assert flow.scan.leaks(flow.named_titles())

    request = Request("POST", API, "/history/v1.0/x", {"User-Agent": secret}, b"")
    flow.record_request(request)
    assert flow.scan.leaks(flow.sent)
