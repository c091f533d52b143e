"""The receipt of a run, run.json.

It says where the run is and what its status is.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import Any, Self

from mnist_cnn import migrations, records
from mnist_cnn.backend import Status  # noqa: TC001 - msgspec needs it
from mnist_cnn.errors import BackendError


@dataclasses.dataclass(frozen=True)
class Receipt:
    """run.json.

    `created` is UTC in ISO 8601; `process_started` and `started`, the last start or resume, are in seconds
    since 1970. Earlier versions recorded no `started`. `pid` is the trainer's process on the machine `host`,
    or None before it starts. `error` and `hint` are one line each if the run failed.
    `backend_settings` are the values of `backend.*`, `versions` those of the packages at the start. A
    backend keeps in `service` what else it needs to find the run again.
    """

    backend: str
    id: str
    job_digest: str
    status: Status
    created: str
    url: str | None = None
    pid: records.Count | None = None
    process_started: records.Number | None = None
    host: str | None = None
    exit_code: records.Count | None = None
    error: str | None = None
    hint: str | None = None
    backend_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    service: dict[str, str] = dataclasses.field(default_factory=dict)
    started: records.Number | None = None

    def to_json(self) -> str:
        """Return run.json's text."""
        return json.dumps({"schema": migrations.SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "run.json") -> Self:
        """Read run.json's text.

        Raises BackendError, which names the file `name`, if it isn't a receipt.
        """
        try:
            receipt = records.convert(cls, migrations.upgrade_receipt(records.decode(text)))
            if datetime.fromisoformat(receipt.created).tzinfo is None:
                raise ValueError(f"created has no time zone: {receipt.created}")  # noqa: TRY301 - as above
            return receipt
        except ValueError as error:
            hint = "the folder isn't a run of this version, or run.json was changed by hand"
            raise BackendError(f"{name} isn't a receipt: {error}", hint) from error
