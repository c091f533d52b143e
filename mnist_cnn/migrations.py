"""Reads what earlier versions wrote into run folders.

Previews of version 0.1.0 wrote schema 1. Version 0.1.0 writes schema 2:

    job.json      `train.clean_epochs` is `train.unaugmented_epochs` now
    run.json      settings of the azure backend had other names (`RENAMED`)
    checkpoints   `conditions` is `runtime` now, and the job within is of schema 1
    result.json   has a checksum now
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_cnn import records

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = 2
RENAMED: dict[str, str | None] = {
    "train.clean_epochs": "train.unaugmented_epochs",
    "backend.retries": "backend.preemption_retries",
    "backend.start_seconds": "backend.queue_timeout",
    "backend.node_count": None,
}
"""Renamed keys of the first preview; None if removed."""


def upgrade_job(content: Any) -> dict[str, Any]:
    """Return job.json's content in the newest schema.

    Raises ValueError for an unknown schema.
    """
    return _upgrade(content, lambda old: {**old, "train": _renamed("train", old.get("train"))})


def downgrade_job(content: dict[str, Any]) -> dict[str, Any]:
    """Return a job's content in schema 1.

    Old runs recorded the digest of that schema.
    """
    train = {**content["train"]}
    train["clean_epochs"] = train.pop("unaugmented_epochs")
    return {**content, "schema": 1, "train": train}


def upgrade_receipt(content: Any) -> dict[str, Any]:
    """Return run.json's content in the newest schema.

    Raises ValueError for an unknown schema.
    """

    def from_schema_1(old: dict[str, Any]) -> dict[str, Any]:
        if old.get("backend") != "azure":  # another backend may have a key of the same name
            return old
        return {**old, "backend_settings": _renamed("backend", old.get("backend_settings"))}

    return _upgrade(content, from_schema_1)


def upgrade_result(content: Any) -> dict[str, Any]:
    """Return result.json's content in the newest schema.

    Raises ValueError for an unknown schema.
    """

    def from_schema_1(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "sha256": records.digest({name: old[name] for name in old if name != "schema"})}

    return _upgrade(content, from_schema_1)


def upgrade_checkpoint(content: Any) -> dict[str, Any]:
    """Return a checkpoint's description in the newest schema.

    Raises ValueError for an unknown schema.
    """
    names = {"conditions": "runtime"}
    return _upgrade(content, lambda old: {names.get(name, name): value for name, value in old.items()})


def _upgrade(content: Any, from_schema_1: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it isn't a JSON object")  # noqa: TRY004 - of a file's content, not of an argument
    schema = content.get("schema")
    if schema not in (1, SCHEMA):
        raise ValueError(f"it is of schema {schema!r}; this version reads schemas 1 and {SCHEMA}")
    upgraded = from_schema_1(content) if schema == 1 else content
    return {name: value for name, value in upgraded.items() if name != "schema"}


def _renamed(group: str, values: Any) -> Any:
    """Return a group's values under their new names.

    Leaves out the keys that were removed.
    """
    if not isinstance(values, dict):
        return values  # which is refused when it is read
    full = {RENAMED.get(f"{group}.{name}", f"{group}.{name}"): value for name, value in values.items()}
    return {key.removeprefix(f"{group}."): value for key, value in full.items() if key is not None}
