"""The whole service: its handlers wired together, started and stopped.

with AzureService(folder) as service:
    subprocess.run(command, cwd=service.home, env={**os.environ, **service.environment})
    service.check()
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from . import interpreter
from .artifacts import CONTAINER as ARTIFACTS_CONTAINER
from .azurite import Azurite
from .blobs import BlobStore
from .certificates import Authority
from .execution import Execution
from .faults import Faults
from .handlers import Handlers
from .job import Jobs
from .nodes import Node
from .proxy import Proxy
from .recording import Recording
from .routes import Router
from .server import Server
from .snapshots import CONTAINER as SNAPSHOTS_CONTAINER
from .tenancy import API, LOGIN, MANAGEMENT, MODELS, Tenancy

if TYPE_CHECKING:
    from .compute import Clusters
    from .history import Runs

HOSTS = {LOGIN, MANAGEMENT, API, MODELS}


class AzureService:
    """A loopback Azure ML in one workspace; use it as a context manager.

    `folder` is where everything of it lies; `home` in it is a folder with a workspace's config.json.
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
        python = interpreter.make(self.folder / "node")
        azurite = Azurite(self.folder, self.tenancy)
        started.callback(azurite.stop)
        self.blobs = BlobStore(self.tenancy, azurite.port)
        for container in (self.tenancy.container, ARTIFACTS_CONTAINER, SNAPSHOTS_CONTAINER):
            self.blobs.create_container(container)
        self.handlers = Handlers.of(self.tenancy, self.blobs)
        authority = Authority()
        self.certificate.write_text(authority.pem())
        self.proxy, nodes_proxy = (Proxy(authority, self._plays, self.requests.refuse_host) for _ in range(2))
        node = Node(self.folder / "jobs", python, self._way_through(nodes_proxy))
        self.jobs = Jobs(self.handlers, node)
        self.handlers.runs.log_files = self.jobs.log_files
        execution = Execution(self.handlers, self.jobs.start)
        router = Router(self.tenancy, [*self.handlers.routes(), *execution.routes()])
        self.server = Server(router, self.handlers.identity, self.blobs, self.faults, self.requests)
        self._write_configuration()
        for proxy in (self.proxy, nodes_proxy):
            proxy.start(self.server.answer)
            started.callback(proxy.stop)
        started.callback(self.jobs.stop)

    @property
    def clusters(self) -> Clusters:
        return self.handlers.clusters

    @property
    def runs(self) -> Runs:
        return self.handlers.runs

    def _way_through(self, proxy: Proxy) -> dict[str, str]:
        """Return the variables that bring a client here, and keep it from everywhere else."""
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), proxy.url)
        bundles = dict.fromkeys(
            ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(self.certificate)
        )
        return {**proxies, **bundles, "NO_PROXY": "", "no_proxy": ""}

    @property
    def environment(self) -> dict[str, str]:
        """What to set for a command that is to use this service."""
        have = self.tenancy
        return {
            **self._way_through(self.proxy),
            "HOME": str(self.folder / "user"),
            "AZUREML_SERVICE_PRINCIPAL_TENANT_ID": have.tenant,
            "AZUREML_SERVICE_PRINCIPAL_ID": have.client,
            "AZUREML_SERVICE_PRINCIPAL_PASSWORD": have.client_secret,
        }

    def check(self) -> None:
        """Fail where something was asked that nobody implemented, or disagrees with the documents.

        Raises:
            AssertionError: names what it was.
        """
        missing = sorted({f"{e.method} {e.host}{e.path}" for e in self.requests.unimplemented()})
        wrong = sorted({complaint for e in self.requests.exchanges() for complaint in e.complaints})
        if missing or wrong:
            lines = [f"nobody implemented: {call}" for call in missing]
            raise AssertionError("\n".join([*lines, *(f"against the documents: {text}" for text in wrong)]))

    def _write_configuration(self) -> None:
        have = self.tenancy
        names = {
            "subscription_id": have.subscription,
            "resource_group": have.group,
            "workspace_name": have.workspace,
        }
        (self.home / "config.json").write_text(json.dumps(names, indent=2) + "\n")

    def _plays(self, host: str) -> bool:
        return host in HOSTS or host == self.tenancy.blob_host
