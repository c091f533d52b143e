"""What a training leaves: its history, row by row, and its result.

Knows the formats of metrics.jsonl, progress.json and result.json, but not where they lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Self

from mnist_cnn import records
from mnist_cnn.errors import BackendError

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class EpochRow:
    """One row of the history. `val_*` is the test set, or the validation images where there are some.

    `learning_rate` is that of the step that follows the epoch.
    """

    epoch: records.Count
    loss: records.Number
    accuracy: records.Number
    val_loss: records.Number
    val_accuracy: records.Number
    learning_rate: records.Number
    seconds: records.Number


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training stands; `loss` and `accuracy` are means over the epoch so far.

    `status` is preparing, running or finalizing, and only a running one has numbers; `seconds_left` is to the
    end of the training.
    """

    status: str
    epoch: records.Count = 0
    epochs: records.Count = 0
    step: records.Count = 0
    steps: records.Count = 0
    loss: records.Number = 0.0
    accuracy: records.Number = 0.0
    images_per_second: records.Number = 0.0
    seconds_left: records.Number = 0.0


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the run folder: its length in bytes and its SHA-256 in hex."""

    bytes: records.Count
    sha256: str


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
    accuracy: records.Number
    loss: records.Number
    history: tuple[EpochRow, ...]
    seconds_per_epoch: records.Number
    training_seconds: records.Number
    weights_sha256: str
    precision: str
    device: str
    processor: str
    threads: records.Count
    versions: dict[str, str]
    files: dict[records.FileName, FileEntry]
    changes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return result.json's text."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "result.json") -> Self:
        """Read result.json's text; `name` says in an error which file it is.

        Raises:
            BackendError: not JSON, another schema, or not a result.
        """
        hint = "the run's result is damaged; its job can be run again from job.json's settings"
        try:
            content = records.decode(text)
            if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
                raise ValueError(f"it isn't of schema {SCHEMA}")  # noqa: TRY301 - as what msgspec raises
            return records.convert(cls, content)
        except ValueError as error:
            raise BackendError(f"{name} is not a result: {error}", hint) from error
