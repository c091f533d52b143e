"""What a cluster's service must do.

`Service` is the interface that `RemoteBackend` uses. `BaseService` does what most services share.
`mnist_cnn.testing.RemoteContract` tests the promises that need a service to be disturbed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from mnist_cnn import run_folder
from mnist_cnn.errors import BackendError
from mnist_cnn.training import network_check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mnist_cnn.backend import ModelRef, Status
    from mnist_cnn.config import BackendConfig
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
NOT_FOUND = 404
CHECKPOINTS = "checkpoints"
"""Key of the run's store folder in `Receipt.service`."""
MIN_BYTES_PER_SECOND = 50_000
"""A slower transfer is abandoned."""


class ServiceError(BackendError):
    """A request failed.

    `status` is the HTTP status, or its like, or None without an answer. `detail` is the service's whole
    message. If the request `is_abandoned`, it ran out of time, and the service may still carry it out.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        detail: str = "",
        is_abandoned: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.detail = detail
        self.is_abandoned = is_abandoned

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed.

        It may if the service was busy or did not answer.
        """
        return self.status is None or self.status in TRANSIENT_STATUSES

    @property
    def is_not_found(self) -> bool:
        return self.status == NOT_FOUND


@dataclasses.dataclass(frozen=True)
class Handle:
    """A run, as folder and receipt name it.

    `place` is what the service needs to find it again.
    """

    folder: Path
    id: str
    place: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> Handle:
        """Return the receipt's run. Raises BackendError."""
        receipt = run_folder.read_receipt(folder)
        return cls(folder, receipt.id, receipt.service)

    @property
    def checkpoints(self) -> str:
        """Return the store's folder of the run's checkpoints."""
        return self.place[CHECKPOINTS]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What the service says of a run.

    `state` is its own name of the state, `status` ours. `error` is why the run ended, on one line, or "";
    `has_trainer_failed` if the trainer's process ended it, not the service. If its node `is_lost`, the run
    may be started again. A run that `is_cancelling` needs no second request. It `has_log` once the trainer
    has printed something.
    """

    state: str
    status: Status
    error: str = ""
    has_trainer_failed: bool = False
    is_lost: bool = False
    is_cancelling: bool = False
    has_log: bool = True


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a followed run.

    Times are in seconds. Before it waits for a node, the service may prepare the run, for at least
    `prepare_seconds`; `preparing` says what it does then.
    """

    queue_seconds: float
    run_seconds: float
    restarts: int
    prepare_seconds: float = 3600.0
    preparing: str = "its node is not ready yet"


@dataclasses.dataclass(frozen=True)
class Blob:
    """A file's length in bytes and MD5 in hex.

    Two files are the same if both are equal.
    """

    bytes: int
    md5: str


def blob_of(content: bytes) -> Blob:
    """Return the blob with this content."""
    return Blob(len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())


class Store(Protocol):
    """Files that nodes and this machine share.

    They are checkpoints, by name. Each method raises ServiceError.
    """

    def list(self, folder: str) -> dict[str, Blob]:
        """Return the files in a folder, by whole name."""

    def get(self, name: str, size: int) -> bytes:
        """Return a file's content.

        Its expected size, in bytes, decides the time limit.
        """

    def put(self, name: str, content: bytes) -> None:
        """Write a file; readers never see a partial file."""

    def remove(self, name: str) -> None:
        """Remove a file; do nothing if it is missing."""


class Service(Protocol):
    """A cluster's service, for one run at a time.

    It may keep what it has learned about the run. A request that is refused, or not answered in time, raises
    ServiceError.
    """

    pages: str
    """Where people see a run's page: "in the studio"."""
    nodes_setting: str
    """The setting that asks for other nodes, as "backend.vm_size=SIZE"."""
    store_is_in_run_folder: bool
    """Whether deleting a run folder also deletes its store."""

    @property
    def config(self) -> BackendConfig:
        """The backend's configuration."""

    @property
    def limits(self) -> Limits:
        """The limits of a followed run."""

    @property
    def nodes(self) -> str:
        """The nodes that a start asks for, in words.

        They may be refused.
        """

    def check(self, job: Job) -> None:
        """Check what can be checked before the run has a folder.

        Raises ConfigurationError, DataError or BackendError.
        """

    def request(self, job: Job, *, force: bool = False, pause_after: int | None = None) -> Any:
        """Return what `start` will send; see `node.arguments`.

        Pure. Raises as `check` does.
        """

    def describe(self, request: Any) -> tuple[tuple[str, str], ...]:
        """Return the request as labels and values, for `plan`."""

    def settings(self) -> dict[str, Any]:
        """Return the `backend.*` values that later commands need.

        A command may run in any folder.
        """

    def place(self) -> dict[str, str]:
        """Return what any process needs to find the service."""

    def new_id(self) -> str:
        """Return a unique name for a run."""

    def prepare(self, handle: Handle, request: Any) -> AbstractContextManager[Any]:
        """Send code, data and newest checkpoint; get nodes ready.

        May take minutes. `start` gets what the context manager returns. Raises NodesRefused or ServiceError.
        """

    def start(self, handle: Handle, request: Any, prepared: Any) -> str:
        """Start the run; return its page's URL, or "".

        Starting one id twice starts one run.
        """

    def on_started(self, handle: Handle, request: Any) -> None:
        """Do optional work after the start, such as tagging."""

    def find(self, handle: Handle) -> Observation | None:
        """Return a run's observation, or None if it's unknown."""

    def cancel(self, handle: Handle) -> None:
        """Ask for the run's end, without waiting for it."""

    def read_log(self, handle: Handle, first: int) -> bytes | None:
        """Return the trainer's log from byte `first` on.

        It begins when the trainer was last started. None means that it can't be read now, though it may have
        grown.
        """

    def files(self, handle: Handle) -> list[str]:
        """Return the names of the ended training's files."""

    def download(self, handle: Handle, name: str, target: Path, seconds: float) -> None:
        """Write one file to `target`, within `seconds`.

        Several threads may call it.
        """

    def store(self, handle: Handle) -> Store:
        """Return the files that nodes and this machine share."""

    def register(self, handle: Handle, name: str, result: Result) -> ModelRef:
        """Register the run's model, once per run and name."""

    def page(self, handle: Handle) -> str:
        """Return the URL of the run's page, or ""."""

    def costs(self, handle: Handle) -> Iterator[str]:
        """Yield lines on costs, and how to stop them."""


class BaseService:
    """The common part of services.

    A service that inherits it defines the other methods of `Service`.
    """

    config: Any
    pages = ""
    nodes_setting = ""
    store_is_in_run_folder = False
    nodes = ""
    limits = Limits(queue_seconds=3600.0, run_seconds=86400.0, restarts=3)

    def check(self, job: Job) -> None:
        """Check the request, and an exact job's custom network."""
        self.request(job)
        network_check.check(job)

    def request(self, job: Job, *, force: bool = False, pause_after: int | None = None) -> Any:
        """Return what `start` will send."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the configuration. A service makes its paths absolute."""
        values: dict[str, Any] = dataclasses.asdict(self.config)
        del values["name"]
        return values

    def place(self) -> dict[str, str]:
        """Return nothing, because the settings name the service."""
        return {}

    def new_id(self) -> str:
        """Return a name of letters, digits and "-"."""
        return f"mnist-cnn-{int(time.time())}-{secrets.token_hex(4)}"

    def on_started(self, handle: Handle, request: Any) -> None:
        """Do nothing."""

    def page(self, handle: Handle) -> str:  # noqa: ARG002 - a service with pages needs it
        """Return "": this service has no pages."""
        return ""

    def costs(self, handle: Handle) -> Iterator[str]:  # noqa: ARG002 - as above
        """Yield nothing."""
        yield from ()
