"""The whole service: starts and stops the blob store, the proxies and the jobs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trustme

from . import interpreter
from .artifacts import CONTAINER as ARTIFACTS_CONTAINER
from .azurite import Azurite
from .blobs import BlobStore
from .faults import Faults
from .handlers import Handlers
from .job import Jobs
from .node import Node
from .proxy import Proxy
from .recording import Recording
from .server import Server
from .snapshots import CONTAINER as SNAPSHOTS_CONTAINER
from .tenancy import API, LOGIN, MANAGEMENT, MODELS, Tenancy

if TYPE_CHECKING:
    from types import TracebackType

HOSTS = {LOGIN, MANAGEMENT, API, MODELS}


class AzureService:
    """A loopback Azure ML with one workspace; use it as a context manager.

    All its files are in `folder`; `home` is the folder in it that holds the workspace's config.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.home = self.folder / "work"
        self.tenancy = Tenancy()
        self.faults = Faults()
        for path in (self.home, self.folder / "user", self.folder / "jobs"):
            path.mkdir(parents=True)
        self.certificate = self.folder / "authority.pem"
        self.requests = Recording(self.folder / "requests.jsonl")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            self._start(started)
            self._started = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def _start(self, started: contextlib.ExitStack) -> None:
        azurite = Azurite(self.folder, self.tenancy)  # takes the longest, so it starts first
        started.callback(azurite.stop)
        python = interpreter.make(self.folder / "node")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.certificate))
        have = self.tenancy
        names = {"subscription_id": have.subscription, "resource_group": have.group}
        names["workspace_name"] = have.workspace
        (self.home / "config.json").write_text(json.dumps(names))
        self.blobs = BlobStore(self.tenancy, azurite.await_port())
        for container in (self.tenancy.container, ARTIFACTS_CONTAINER, SNAPSHOTS_CONTAINER):
            self.blobs.create_container(container)
        self.handlers = Handlers(self.tenancy, self.blobs)
        self.clusters, self.runs = self.handlers.clusters, self.handlers.runs
        hosts = {*HOSTS, self.tenancy.blob_host}
        self.proxy, nodes_proxy = (Proxy(authority, hosts, self.requests.add_refused_host) for _ in range(2))
        self.jobs = Jobs(self.handlers, Node(self.folder / "jobs", python, self._network(nodes_proxy)))
        self.runs.log_files = self.jobs.log_files
        self.server = Server(self.handlers, self.jobs.start, self.faults, self.requests)
        for proxy in (self.proxy, nodes_proxy):
            proxy.start(self.server.answer)
            started.callback(proxy.stop)
        started.callback(self.jobs.stop)

    def _network(self, proxy: Proxy) -> dict[str, str]:
        """Return the variables that send all of a client's requests to this service."""
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), proxy.url)
        bundles = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
        trusted = dict.fromkeys(bundles, str(self.certificate))
        return {**proxies, **trusted, "NO_PROXY": "", "no_proxy": ""}

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a command that uses this service."""
        have = self.tenancy
        return {
            **self._network(self.proxy),
            "HOME": str(self.folder / "user"),
            "AZUREML_SERVICE_PRINCIPAL_TENANT_ID": have.tenant,
            "AZUREML_SERVICE_PRINCIPAL_ID": have.client,
            "AZUREML_SERVICE_PRINCIPAL_PASSWORD": have.client_secret,
        }

    def check(self) -> None:
        """Check all recorded requests, as `Recording.check` does."""
        self.requests.check()
