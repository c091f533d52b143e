"""The result, history and progress of a training.

Their files are result.json, metrics.jsonl and progress.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Self

from mnist_cnn import migrations, records
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping


def percent(share: float) -> str:
    """Return a share in [0, 1], like "99.18%"."""
    return f"{share:.2%}"


def describe_epochs(count: int) -> str:
    """Return for example "1 epoch" or "12 epochs"."""
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def describe_metrics(values: Mapping[str, float]) -> str:
    """Return for example "f1_score 0.9812, auc 0.9990"."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


@dataclasses.dataclass(frozen=True)
class EpochRow:
    """One row of the history.

    `val_*` are on the validation images if there are any, else the test set. `learning_rate` is that of the
    step after the epoch. `*_parts` are the means over equal parts of the epoch, in order, rounded for the
    plot; earlier versions wrote none. `metrics` are those of `train.metrics`, on the same images as `val_*`.
    """

    epoch: records.Count
    loss: records.Number
    accuracy: records.Number
    val_loss: records.Number
    val_accuracy: records.Number
    learning_rate: records.Number
    seconds: records.Number
    loss_parts: tuple[records.Number, ...] = ()
    accuracy_parts: tuple[records.Number, ...] = ()
    metrics: dict[str, records.Number] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is.

    `loss` and `accuracy` are means over the epoch so far. `status` is preparing, running or finalizing; only
    running has all numbers. `seconds_left` is until the end of the training.
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
    """A file's length in bytes and SHA-256 in hex."""

    bytes: records.Count
    sha256: str


def describe_content(content: bytes) -> FileEntry:
    """Return the length and SHA-256 of a file's content."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """How well a class is recognised.

    A score is None if the images do not define it. `precision` is the share of the images predicted as this
    class that are of it. `recall` is the share of its images that are predicted as it. `f1` is their harmonic
    mean. `support` is the number of its images. `name` is the class's name, if the data give it one.
    """

    precision: records.Number | None
    recall: records.Number | None
    f1: records.Number | None
    support: records.Count
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a training.

    `accuracy` in [0, 1] and `loss` in nats are on the test set. They are always those of the saved model in
    float32 arithmetic. That model has the weights of `saved_epoch`; earlier versions always saved the last
    one's. `classes` are the scores of each class on the test set; earlier versions recorded none.

    `training_seconds` is the time from building the network to the end of the last epoch, including tracing,
    evaluation and checkpoints; after a resume, only that of the last part. `ended` is when the result was
    written, in seconds since 1970; earlier versions did not record it.

    `weights_sha256` is over the weights of the saved model, see `model.weights_sha256`. It is equal for equal
    jobs if precision, device, versions and fingerprint are equal (see `Runtime`) and there are no `changes`.
    These are what had changed when the run was resumed with `force=true`. `warnings` say what makes the model
    useless, for example an accuracy that guessing has too. If `numerics` is "exact",
    fingerprints are equal on all machines.
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
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str | None = None
    numerics: str = "native"
    saved_epoch: records.Count | None = None
    classes: tuple[ClassScores, ...] = ()
    warnings: tuple[str, ...] = ()
    ended: records.Number | None = None

    def to_json(self) -> str:
        """Return result.json's text, with a checksum of its values."""
        values = dataclasses.asdict(self)
        content = {"schema": migrations.SCHEMA, **values, "sha256": records.digest(values)}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "result.json") -> Self:
        """Read result.json's text.

        Raises BackendError, which names the file `name`, if it isn't a result.
        """
        try:
            values = migrations.upgrade_result(records.decode(text))
            sha256 = values.pop("sha256", None)
            result = records.convert(cls, values)
            if sha256 != records.digest(values):
                raise ValueError("its checksum does not match its values")  # noqa: TRY301 - as what msgspec raises
            return result
        except ValueError as error:
            raise BackendError(f"{name} is not a result: {error}", "rebuild it: resume its run") from error
