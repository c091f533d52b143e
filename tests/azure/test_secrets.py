"""No key, signature, password or token gets out of a run on the cluster, however much of it goes wrong.

One flow, with secrets planted and with a service that repeats them in its errors, through submission, result,
registration and every kind of failure; afterwards all that was printed, written, sent or shown is searched.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import numpy as np
import psutil
import pytest
from helpers.processes import command, hear_interrupts
from helpers.secret_scan import CRASHING_NETWORK, PREFIX, Planted, files_under

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import ENDLESS, TINY, chosen, wait_for_line
from loopback import Fault
from loopback.messages import Request
from loopback.tenancy import API

from mnist_cnn import backends, config, run_folder
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

pytestmark = pytest.mark.usefixtures("azure_environment")

SECRET = "Lying+about/and=planted&there"  # noqa: S105 - what is looked for
MINE = {
    "MY_API_TOKEN": "Mine-and-planted-in-the-environment",
    "DB_PASSWORD": 'My "pass\\word" that is & planted there',
}
"""Variables of the user's own, which the processes here inherit and nothing else gets."""
PROXY_PASSWORD = "Proxy-password-that-is-planted"  # noqa: S105 - as above
GIT_TOKEN = "Git-token-that-is-planted"  # noqa: S105 - as above
WRONG_PASSWORD = "Wrong-password-that-is-planted"  # noqa: S105 - as above
LEFT_LYING = (
    ".env",
    ".azureml/token.json",
    ".azure/msal_token_cache.json",
    "config.toml",
    "credentials.json",
    "key.pem",
    "notebook.ipynb",
    "secrets.yaml",
    "conf/secrets.toml",
    "conf/backend/.env.yaml",
    "data/mnist/secrets.yaml",
)
"""Files with a secret, in the current folder and in the package's."""
TELLER = """
import os, sys, traceback
import mnist_cnn
from mnist_cnn.errors import MnistCnnError

def links(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

def tell(*overrides):
    try:
        mnist_cnn.submit(*sys.argv[1:], *overrides)
    except MnistCnnError as error:
        print("".join(traceback.format_exception(error)))
        for link in links(error):
            print(str(link), repr(link), link.args, vars(link))
    else:
        sys.exit("it was taken")

right = os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"]
os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] = os.environ["WRONG_PASSWORD"]
tell("run_dir=told0")
tell("run_dir=told1")
os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] = right
tell("run_dir=told2")
tell("run_dir=told3")
"""


@dataclasses.dataclass
class Flow:
    """What a whole flow did: its folders, what its commands printed, what it sent, its processes' titles."""

    azure: AzureService
    root: Path
    planted: Planted
    site: Path
    printed: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    sent: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    titles: set[str] = dataclasses.field(default_factory=set)
    run_ids: list[str] = dataclasses.field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every command; HOME and TMPDIR are folders that hold nothing else."""
        proxy = os.environ["HTTPS_PROXY"].replace("://", f"://somebody:{PROXY_PASSWORD}@")
        return {
            **os.environ,
            **MINE,
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(self.site),
            "MNIST_CNN_DEBUG": "1",
            "WRONG_PASSWORD": WRONG_PASSWORD,
        }

    def start(self, line: list[str], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            line,
            cwd=self.work,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,  # noqa: PLW1509 - it makes one system call
        )

    def end(self, process: subprocess.Popen[str], said: str = "") -> int:
        """Wait for a process, keep what it printed, check that it said something; return its exit code."""
        out, err = process.communicate(timeout=180)
        line = " ".join(map(str, process.args)) if isinstance(process.args, list) else ""
        self.printed.append((f"what {line[-200:]} printed", (out + err).encode()))
        assert said in out + err, (out + err)[-3000:]
        return process.returncode

    def run(self, *arguments: str, said: str = "", **environment: str) -> int:
        return self.end(self.start(command(*arguments), **environment), said)

    def take_down(self, request: Request) -> None:
        """Keep what was sent, but for what is there to open the door: that is no leak."""
        target, body = request.target, request.body
        if request.host == self.azure.tenancy.blob_host:
            target = target.partition("?")[0]  # the rest is a signature, or tells how a blob is cut
        if request.path.endswith("/token"):
            body = body.replace(quote(self.azure.tenancy.client_secret).encode(), b"")
            body = body.replace(WRONG_PASSWORD.encode(), b"")
        if request.method == "POST" and "/content/" in request.path:
            # By this the SDK tells where it has put the code: at the addresses that it was given for that.
            body = re.sub(rb"[?&]sig=[^\"&]+", b"", body)
        headers = {name: text for name, text in request.headers.items() if name.lower() != "authorization"}
        name = f"{request.method} {request.host}{target}"
        self.sent.append((name, json.dumps(headers).encode() + b"\n" + body))

    def watch_titles(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.3):
            self.look_at_titles()

    def look_at_titles(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                self.titles.add(" ".join(process.cmdline()))

    # -- what is searched ------------------------------------------------------------------------------

    def files(self) -> Iterator[tuple[str, bytes]]:
        laid = {str(self.work / name) for name in LEFT_LYING} | {str(self.root / ".git" / "config")}
        return (file for file in files_under(self.root) if file[0] not in laid)

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        store = self.azure.blobs
        for container in (self.azure.tenancy.container, "azureml", "snapshots"):
            for blob in store.listing(container):
                if not blob.name.startswith("mnist/"):  # those have the MD5 of what is in the package
                    yield f"{container}/{blob.name}", store.get(container, blob.name)

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yield what the service knows of each run, and shows in its pages: tags, arguments, error."""
        for run in self.azure.runs.all():
            if run.run_id in self.run_ids:
                yield run.run_id, json.dumps([run.document, run.definition, run.events]).encode()
        yield "the models", json.dumps(self.azure.handlers.models.all()).encode()

    def named_titles(self) -> Iterator[tuple[str, bytes]]:
        return ((f"the title {title[:300]}", title.encode()) for title in self.titles)


@pytest.fixture(scope="module")
def flow(azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """The whole flow, run once."""
    azure, root = azure_environment, tmp_path_factory.mktemp("secrets")
    known = {
        "the secret of the files that lie about": SECRET,
        "the proxy's password": PROXY_PASSWORD,
        "the wrong password": WRONG_PASSWORD,
        "the git remote's token": GIT_TOKEN,
        "the client secret": azure.tenancy.client_secret,
        "the account's key": azure.tenancy.account_key,
        **MINE,
    }
    made = Flow(azure, root, Planted(known), tmp_path_factory.mktemp("site"))
    for name in ("home", "tmp", "work"):
        (root / name).mkdir()
    _copy_the_package(made.site)
    for folder in (made.work, made.site / "mnist_cnn"):
        _leave_lying(folder)
    _make_a_repository(root)
    (made.work / "crash.py").write_text(CRASHING_NETWORK)
    is_over = threading.Event()
    watcher = threading.Thread(target=made.watch_titles, args=(is_over,), daemon=True)
    watcher.start()
    azure.server.listeners.append(made.take_down)
    try:
        before = {run.run_id for run in azure.runs.all()}
        _go_through(made)
        made.run_ids = [run.run_id for run in azure.runs.all() if run.run_id not in before]
        # The beginning of a token is the same for all; the signature is what makes it one.
        tokens = [token.rpartition(".")[2] for token in azure.handlers.identity.issued]
        made.planted.add({f"access token {number}": text for number, text in enumerate(tokens)})
        yield made
    finally:
        azure.server.listeners.remove(made.take_down)
        is_over.set()
        watcher.join()
        for run in azure.runs.all():
            azure.runs.cancel(run.run_id)
        azure.faults.clear()
        azure.requests.clear()


def _copy_the_package(site: Path) -> None:
    """Copy the package that is installed, for files to be laid into it."""
    package = Path(run_folder.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, site / "mnist_cnn", ignore=ignored)
    for name, folder in (("backends", Path(backends.__file__).parent), ("conf", config.CONF_DIR)):
        shutil.copytree(folder, site / "mnist_cnn" / name, ignore=ignored, dirs_exist_ok=True)


def _make_a_repository(folder: Path) -> None:
    """Make what git takes for a repository, whose remote's address holds a token."""
    for name in ("objects", "refs"):
        (folder / ".git" / name).mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    remote = f"url = https://somebody:{GIT_TOKEN}@127.0.0.1/code.git"
    (folder / ".git" / "config").write_text(f'[remote "origin"]\n\t{remote}\n')


def _leave_lying(folder: Path) -> None:
    for name in LEFT_LYING:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"password": SECRET}))


def _go_through(flow: Flow) -> None:
    azure = flow.azure
    sent_again = "backend.data.overwrite=true"
    job = (*chosen(azure), *TINY, "model=compact", "run_dir=run")  # whose files are small to search
    wrong = {"AZUREML_SERVICE_PRINCIPAL_PASSWORD": WRONG_PASSWORD}

    assert flow.run("plan", *job, said="snapshot") == 0
    assert flow.run(*job, "run_dir=wrong", said="AADSTS7000215", **wrong) == BackendError.exit_code

    refusal = Fault("PUT", r"blob\.core.*mnist/t10k-labels", status=403, times=0, echoes=True)
    azure.faults.add(refusal)
    assert flow.run(*job, sent_again, said="cannot send mnist/t10k-labels") == BackendError.exit_code
    azure.faults.clear()

    assert flow.run("resume", "run", "register.name=null", said="completed: ") == 0
    assert flow.run("status", "run", "--json", said='"completed"') == 0
    azure.faults.add(Fault("POST", "/models$", status=403, echoes=True))
    registered = ("register.name=planted", "register.min_accuracy=0")
    assert flow.run("register", "run", *registered, said="cannot register") == BackendError.exit_code
    assert flow.run("register", "run", *registered, said="planted version 1") == 0

    crash = ("model.file=crash.py", "run_dir=crash")
    assert flow.run(*job, *crash, said="the environment is") == MnistCnnError.exit_code
    _lose_sight(flow, job)
    _tell_in_python(flow, job)


def _lose_sight(flow: Flow, job: tuple[str, ...]) -> None:
    """A run under way: its token expires, its log is refused, who follows is interrupted, it is cancelled."""
    azure = flow.azure
    process = flow.start(command(*job, *ENDLESS, "run_dir=endless"))
    wait_for_line(flow.work / "endless", "epoch 1/", process)  # the node has begun, with its own token
    azure.faults.add(Fault("GET", "/history/.*/runs/", status=401, times=0, echoes=True))
    assert flow.end(process, "the run is still running") == BackendError.exit_code
    azure.faults.clear()
    azure.faults.add(Fault("GET", r"blob\.core.*std_log", status=403, times=0, echoes=True))
    azure.requests.clear()
    process = flow.start(command("follow", "endless"))
    azure.requests.wait_for("GET", r"blob\.core.*std_log", timeout=120)
    process.send_signal(signal.SIGINT)
    assert flow.end(process, "cannot read the node's log") == 130
    azure.faults.clear()
    assert flow.run("cancel", "endless", said="cancelled") == 0


def _tell_in_python(flow: Flow, job: tuple[str, ...]) -> None:
    flow.azure.faults.add(
        Fault("POST", "/token$", kind="drop"),
        Fault("GET", "/datastore/", status=403, echoes=True),
        Fault("POST", "snapshotrun", status=400, times=0, echoes=True),
    )
    line = [sys.executable, "-P", "-c", TELLER, *job[:-1]]
    assert flow.end(flow.start(line), "cannot submit the run") == 0
    flow.azure.faults.clear()


def _zipped(content: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside", content)
        return file.getvalue()


def _saved(content: bytes) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, array=np.frombuffer(content, dtype=np.uint8))
        return file.getvalue()


HARD_TO_WRITE = 'A "se\\cret"/with+all&signs'  # whose beginning each way of writing changes
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda content: content,
    "gzip": gzip.compress,
    "zip": _zipped,
    "npz": _saved,
    "gzip in zip": lambda content: _zipped(gzip.compress(content)),
}
WRITTEN: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "its beginning": lambda secret: secret[:PREFIX].encode(),
    "URL": lambda secret: quote(secret, safe="").encode(),
    "form": lambda secret: quote_plus(secret).encode(),
    "Python": lambda secret: repr([secret]).encode(),
    "JSON": lambda secret: json.dumps([secret]).encode(),
    "base64": lambda secret: base64.b64encode(secret.encode()),
    "base64, after a name": lambda secret: base64.b64encode(b"user:" + secret.encode()),
    "base64, after another": lambda secret: base64.b64encode(b"me:x" + secret.encode()),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()),
    "hexadecimal": lambda secret: secret.encode().hex().encode(),
    "HEXADECIMAL": lambda secret: secret.encode().hex().upper().encode(),
    "UTF-16": lambda secret: secret.encode("utf-16"),
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_the_search_finds_a_secret_however_it_is_written_and_packed(
    write: Callable[[str], bytes], pack: Callable[[bytes], bytes]
) -> None:
    planted = Planted({"one": HARD_TO_WRITE})
    assert planted.found_in(pack(b"before " + write(HARD_TO_WRITE) + b" after")) == {"one"}
    assert not planted.found_in(pack(b"before " + write("what is no such thing") + b" after"))


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c/b?se=2026&sig=Abcdefghij0123456789%2BAbcd%3D",
        "Authorization: Bearer eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJodHRwczovLyJ9.Abcdefghij0123456789",
        "DefaultEndpointsProtocol=https;AccountKey=Abcdefghij0123456789+/Abcdefghij==",
        "SharedKey account:Abcdefghij0123456789Abcdefghij0123456789Abc=",
    ],
)
def test_the_search_finds_what_looks_like_a_secret(text: str) -> None:
    assert Planted({}).found_in(text.encode())
    assert not Planted({}).found_in(redact(text).encode())


def test_nothing_that_was_printed_holds_a_secret(flow: Flow) -> None:
    assert len(flow.printed) >= 12
    assert not flow.planted.leaks(flow.printed)


def test_nothing_that_was_written_holds_a_secret(flow: Flow) -> None:
    assert len(list(flow.files())) > 20
    assert not flow.planted.leaks(flow.files())


def test_nothing_that_was_sent_holds_a_secret(flow: Flow) -> None:
    assert len(flow.sent) > 100
    assert not flow.planted.leaks(flow.sent)


def test_nothing_that_is_stored_holds_a_secret(flow: Flow) -> None:
    assert not flow.planted.leaks(flow.blobs())


def test_nothing_that_the_service_shows_holds_a_secret(flow: Flow) -> None:
    assert not flow.planted.leaks(flow.documents())


def test_no_title_of_a_process_holds_a_secret(flow: Flow) -> None:
    assert any("-m mnist_cnn" in title for title in flow.titles)
    assert any("entry.py" in title for title in flow.titles)
    assert not flow.planted.leaks(flow.named_titles())


def test_the_snapshot_is_what_the_package_is_made_of_and_nothing_that_lies_beside_it(flow: Flow) -> None:
    run = flow.azure.runs[run_folder.read_receipt(flow.work / "run").id]
    names = flow.azure.handlers.snapshots.files((run.definition or {})["snapshotId"])
    assert {"entry.py", "mnist_cnn/conf/config.yaml", "mnist_cnn/backends/azure/run.py"} <= set(names)
    package = Path(run_folder.__file__).parent
    sources = {f"mnist_cnn/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} >= sources
    laid = {Path(name).name for name in LEFT_LYING}
    assert not [name for name in names if Path(name).name in laid]
    assert {Path(name).suffix for name in names} == {".py", ".toml", ".yaml"}


def test_a_secret_that_does_get_out_is_found_wherever_that_is(flow: Flow) -> None:
    """Leaks one on purpose into all that the tests above search; the last test, for it spoils the flow."""
    secret, azure = flow.azure.tenancy.client_secret, flow.azure
    flow.end(flow.start([sys.executable, "-c", "import os; print(os.environ['S'])"], S=secret))
    assert flow.planted.leaks(flow.printed)

    (flow.root / "home" / ".azureml" / "cache").write_text(json.dumps({"secret": secret}))
    assert flow.planted.leaks(flow.files())

    azure.blobs.put("azureml", "leak", gzip.compress(secret.encode()))
    assert flow.planted.leaks(flow.blobs())
    azure.blobs.delete("azureml", "leak")

    run = azure.runs[flow.run_ids[0]]
    run.document["tags"]["leak"] = secret
    assert flow.planted.leaks(flow.documents())
    del run.document["tags"]["leak"]

    sleeper = subprocess.Popen([sys.executable, "-c", "input()", secret], stdin=subprocess.PIPE)
    flow.look_at_titles()
    sleeper.communicate(timeout=60)
    assert flow.planted.leaks(flow.named_titles())

    request = Request("POST", API, "/history/v1.0/x", {"User-Agent": secret}, b"")
    flow.take_down(request)
    assert flow.planted.leaks(flow.sent)
