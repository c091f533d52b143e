"""What a training leaves: its history, row by row, and its result.

Knows the formats of metrics.jsonl, progress.json and result.json, but not where they lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Self

from mnist_cnn.errors import BackendError

SCHEMA = 1
KINDS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "dict[str, str]": dict,
    "tuple[str, ...]": tuple,
}
LARGEST = {"int": 2**53, "float": 1e100}
"""What no number here comes near. JSON's have no bound, and what counts with them has: Python's float."""


@dataclasses.dataclass(frozen=True)
class EpochRow:
    """One row of the history. `val_*` is the test set, or the validation images where there are some.

    `learning_rate` is that of the step that follows the epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training stands; `loss` and `accuracy` are means over the epoch so far.

    `status` is preparing, running or finalizing, and only a running one has numbers; `seconds_left` is to the
    end of the training.
    """

    status: str
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    images_per_second: float = 0.0
    seconds_left: float = 0.0


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the run folder: its length in bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


def check_fields(record: Any) -> None:
    """Raise TypeError or ValueError where a value of a dataclass that was read is not as its field says."""
    for field in dataclasses.fields(record):
        value, kind = getattr(record, field.name), str(field.type)
        if kind not in KINDS:
            continue
        if not isinstance(value, KINDS[kind]) or isinstance(value, bool):
            message = f"{field.name} is no {kind}: {value!r}"
            raise TypeError(message)
        if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
            message = f"{field.name} is not of texts: {value!r}"
            raise TypeError(message)
        if isinstance(value, int | float) and not abs(value) <= LARGEST[kind]:  # nor is NaN
            message = f"{field.name} is not finite or far too large: {value!r}"
            raise ValueError(message)


def describe_content(content: bytes) -> FileEntry:
    """Describe a file by its content."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a training: `accuracy` and `loss` are on the test set, in [0, 1] and in nats.

    `training_seconds` are those from the building of the network to the end of the last epoch, with tracing,
    evaluation and checkpoints; where the training went on from a checkpoint, those of its last part.
    `weights_sha256` is over the weights of the saved model, as `model.weights_sha256` computes it. Those of
    equal jobs may be compared where precision, device, processor, threads and versions agree, and where there
    are no `changes`: what had changed between the parts of a run that went on all the same, by `force=true`.
    """

    job_digest: str
    accuracy: float
    loss: float
    history: tuple[EpochRow, ...]
    seconds_per_epoch: float
    training_seconds: float
    weights_sha256: str
    precision: str
    device: str
    processor: str
    threads: int
    versions: dict[str, str]
    files: dict[str, FileEntry]
    changes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return result.json's text."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n"

    def check_types(self) -> None:
        """Raise TypeError or ValueError where a value is not what this class writes."""
        for record in (self, *self.history, *self.files.values()):
            check_fields(record)
        for name in self.files:
            if "/" in name or "\\" in name or name in ("", ".", ".."):
                message = f"{name!r} is no file's name"
                raise ValueError(message)

    @classmethod
    def from_json(cls, text: str, name: str = "result.json") -> Self:
        """Read result.json's text; `name` says in an error which file it is.

        Raises:
            BackendError: not JSON, another schema, or not a result.
        """
        hint = "the run's result is damaged; its job can be run again from job.json's settings"
        try:
            mapping: dict[str, Any] = json.loads(text)
            if mapping.pop("schema") != SCHEMA:
                raise BackendError(f"{name} is not of schema {SCHEMA}", hint)
            mapping["changes"] = tuple(mapping.get("changes", ()))
            mapping["history"] = tuple(EpochRow(**row) for row in mapping["history"])
            mapping["files"] = {file: FileEntry(**entry) for file, entry in mapping["files"].items()}
            result = cls(**mapping)
            result.check_types()
            return result
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BackendError(f"{name} is not a result: {error!r}", hint) from error
