"""A run's definition as the service shows it: normalised, and with the defaults filled in."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import Json

MAX_SECONDS = 30 * 24 * 3600
DEFAULTS: Json = {
    "framework": "Python",
    "communicator": "None",
    "useAbsolutePath": False,
    "command": "",
    "data": {},
    "outputData": {},
    "priority": None,
    "credentialPassthrough": False,
    "identity": None,
    "parallelTask": {},
    "amlCompute": {},
    "aiSuperComputer": {},
    "pyTorch": {},
    "cmk8sCompute": {},
    "commandReturnCodeConfig": {"returnCode": "Zero", "successfulReturnCodes": []},
}
"""Members that printed definitions of 2021 have, whatever was sent (azure-ml-recorded.json)."""


def shown(sent: Json) -> Json:
    """Return what clients read of the definition that one has sent."""
    definition = {name[:1].lower() + name[1:]: value for name, value in (DEFAULTS | sent).items()}
    if definition.get("maxRunDurationSeconds") is None:
        definition["maxRunDurationSeconds"] = MAX_SECONDS
    environment = dict(definition.get("environment") or {})
    if not environment.get("version"):
        environment["version"] = (
            f"Autosave_{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}_{secrets.token_hex(4)}"
        )
    return {**definition, "environment": environment}
