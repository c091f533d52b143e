"""A series of commands with secrets all around, and everything that they printed, wrote and sent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
from helpers.processes import command, start
from helpers.secret_scan import SecretScan, files_under

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService
    from loopback.messages import Request

SECRET = "Lying+about/and=secret&there"  # noqa: S105 - what is searched for
MINE = {"MY_API_TOKEN": "Mine-and-in-the-environment", "DB_PASSWORD": 'My "pass\\word" that is & in there'}
"""The user's own variables, which the commands inherit and must not pass on."""
PROXY_PASSWORD = "Proxy-password-that-is-secret"  # noqa: S105 - as above
GIT_TOKEN = "Git-token-that-is-secret"  # noqa: S105 - as above
WRONG_PASSWORD = "Wrong-password-that-is-secret"  # noqa: S105 - as above
SECRET_FILES = (
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


@dataclasses.dataclass
class Flow:
    """What a series of commands did: its folders, output, requests, runs and process titles."""

    azure: AzureService
    root: Path
    scan: SecretScan
    stored_before: set[tuple[str, str]]
    printed: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    sent: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    titles: set[str] = dataclasses.field(default_factory=set)
    run_ids: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def prepare(cls, azure: AzureService, folder: Path) -> Flow:
        """Return a flow that knows all secrets, with files and a git repository that hold some.

        `folder` holds the package's copy in `site`.
        """
        known = {
            "the secret in files": SECRET,
            "the proxy's password": PROXY_PASSWORD,
            "the wrong password": WRONG_PASSWORD,
            "the git remote's token": GIT_TOKEN,
            "the client secret": azure.tenancy.client_secret,
            "the account's key": azure.tenancy.account_key,
            **MINE,
        }
        flow = cls(azure, folder / "root", SecretScan(known), _stored(azure))
        for name in ("home", "tmp", "work", ".git/objects", ".git/refs"):
            (flow.root / name).mkdir(parents=True)
        for name in SECRET_FILES:
            for place in (flow.work, flow.site / "mnist_cnn"):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_text(json.dumps({"password": SECRET}))
        (flow.root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        remote = f"url = https://user:{GIT_TOKEN}@127.0.0.1/code.git"
        (flow.root / ".git" / "config").write_text(f'[remote "origin"]\n\t{remote}\n')
        return flow

    @property
    def site(self) -> Path:
        return self.root.parent / "site"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every command; HOME and TMPDIR are folders that hold nothing else."""
        proxy = os.environ["HTTPS_PROXY"].replace("://", f"://user:{PROXY_PASSWORD}@")
        return {
            **MINE,
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(self.site),
            "MNIST_CNN_DEBUG": "1",
            "WRONG_PASSWORD": WRONG_PASSWORD,
        }

    # -- commands --------------------------------------------------------------------------------------

    def start(self, line: list[str], **environment: str) -> subprocess.Popen[str]:
        return start(*line, cwd=self.work, **{**self.environment, **environment})

    def end(self, process: subprocess.Popen[str], expected: str = "") -> int:
        """Wait for a process, keep its output, check that this holds a text; return the exit code."""
        out, err = process.communicate(timeout=180)
        line = " ".join(map(str, process.args)) if isinstance(process.args, list) else ""
        self.printed.append((f"the output of {line[-200:]}", (out + err).encode()))
        assert expected in out + err, (out + err)[-3000:]
        return process.returncode

    def run(self, *arguments: str, expected: str = "", **environment: str) -> int:
        return self.end(self.start(command(*arguments), **environment), expected)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the requests, runs, tokens and process titles of what happens inside."""
        before = {run.run_id for run in self.azure.runs.all()}
        issued_before = len(self.azure.handlers.identity.issued)
        is_over = threading.Event()
        watcher = threading.Thread(target=self._watch_titles, args=(is_over,), daemon=True)
        watcher.start()
        self.azure.server.listeners.append(self.record_request)
        try:
            yield
        finally:
            self.azure.server.listeners.remove(self.record_request)
            is_over.set()
            watcher.join()
        self.run_ids = [run.run_id for run in self.azure.runs.all() if run.run_id not in before]
        # All tokens begin with the same characters, so only their signatures are searched for.
        tokens = [token.rpartition(".")[2] for token in self.azure.handlers.identity.issued[issued_before:]]
        self.scan.add({f"access token {number}": text for number, text in enumerate(tokens)})

    def record_request(self, request: Request) -> None:
        """Keep a request, without the credentials that it needs."""
        target, body = request.target, request.body
        if request.host == self.azure.tenancy.blob_host:
            target = target.partition("?")[0]  # the query is a signature, or the number of a block
        if request.path.endswith("/token"):
            body = body.replace(quote(self.azure.tenancy.client_secret).encode(), b"")
            body = body.replace(WRONG_PASSWORD.encode(), b"")
        if request.method == "POST" and "/content/" in request.path:
            # Here the SDK sends back the signed URLs to which it has uploaded the code.
            body = re.sub(rb"[?&]sig=[^\"&]+", b"", body)
        headers = {name: text for name, text in request.headers.items() if name.lower() != "authorization"}
        name = f"{request.method} {request.host}{target}"
        self.sent.append((name, json.dumps(headers).encode() + b"\n" + body))

    def _watch_titles(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.3):
            self.record_titles()

    def record_titles(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                self.titles.add(" ".join(process.cmdline()))

    # -- what is searched ------------------------------------------------------------------------------

    def files(self) -> Iterator[tuple[str, bytes]]:
        known = {str(self.work / name) for name in SECRET_FILES} | {str(self.root / ".git" / "config")}
        return (file for file in files_under(self.root) if file[0] not in known)

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """Yield what was stored since the flow was prepared."""
        for container, name in sorted(_stored(self.azure) - self.stored_before):
            yield f"{container}/{name}", self.azure.blobs.get(container, name)

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yield what the service knows about the runs and models, and shows on its pages."""
        for run in self.azure.runs.all():
            if run.run_id in self.run_ids:
                yield run.run_id, json.dumps([run.document, run.definition, run.events]).encode()
        yield "the models", json.dumps(self.azure.handlers.models.all()).encode()

    def named_titles(self) -> Iterator[tuple[str, bytes]]:
        return ((f"the title {title[:300]}", title.encode()) for title in self.titles)


def _stored(azure: AzureService) -> set[tuple[str, str]]:
    """Return the container and name of every blob except the data set's."""
    containers = (azure.tenancy.container, "azureml", "snapshots")
    names = {(container, name) for container in containers for name in azure.blobs.names(container)}
    return {(container, name) for container, name in names if not name.startswith("mnist/")}
