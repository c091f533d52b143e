"""The schema of conf/.

Every configuration key has its meaning, unit and bounds here. These frozen dataclasses define the keys; the
YAML files only choose values. `settings` says what a key is and checks the values.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import Section, inner, keys_of, setting, written

CONF_DIR = Path(__file__).parent / "conf"
"""The packaged configuration.

In a checkout, this is a symbolic link to the top-level `conf/`.
"""


class Format(StrEnum):
    """Where an image array has its channel axis."""

    channels_last = "channels_last"
    channels_first = "channels_first"


class Pictures(StrEnum):
    """How `predict` and `serve` turn a picture into the network's input.

    `ink` finds the drawn ink, scales and centres it as in MNIST; `whole` resizes the picture as it is.
    """

    ink = "ink"
    whole = "whole"


class Optimizer(StrEnum):
    """Keras' optimizers, with its defaults except the learning rate."""

    adadelta = "adadelta"
    adam = "adam"
    adamw = "adamw"
    rmsprop = "rmsprop"
    sgd = "sgd"

    @property
    def rate(self) -> float:
        """The learning rate with which it trains networks of this kind well."""
        return RATES[self]


RATES = {
    Optimizer.adadelta: 1.0,
    Optimizer.adam: 0.001,
    Optimizer.adamw: 0.001,
    Optimizer.rmsprop: 0.001,
    Optimizer.sgd: 0.1,
}
"""Keras 3's defaults, except two.

Adadelta has that of Keras 2 and of its paper (https://arxiv.org/abs/1212.5701); with 0.001 it does not learn.
SGD without momentum learns slowly with 0.01.
"""


class Schedule(StrEnum):
    """How the learning rate changes during a training."""

    constant = "constant"
    one_cycle = "one_cycle"


class Loss(StrEnum):
    """How the loss is computed.

    Both compute the same number; the first from one-hot labels, the second from class indices.
    """

    categorical_crossentropy = "categorical_crossentropy"
    sparse_categorical_crossentropy = "sparse_categorical_crossentropy"


class ClassWeights(StrEnum):
    """Weights computed from the images in each class."""

    balanced = "balanced"


class Keep(StrEnum):
    """Which epoch's weights are saved.

    The best has the lowest validation loss.
    """

    last = "last"
    best = "best"


class Sampler(StrEnum):
    """How a search chooses its next trial's settings.

    At random, or near the best so far.
    """

    random = "random"
    tpe = "tpe"


class Numerics(StrEnum):
    """Whether sums may round.

    Rounding is fastest. Without it, every machine computes the same numbers.
    """

    native = "native"
    exact = "exact"


class Precision(StrEnum):
    """The arithmetic of matrix multiplications.

    With exact numerics, how their results are rounded. Weights and the saved model are float32.
    """

    float32 = "float32"
    bfloat16 = "bfloat16"
    auto = "auto"

    @property
    def for_exact(self) -> Precision:
        """The precision with exact numerics, on every machine."""
        return Precision.bfloat16 if self is Precision.auto else self


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which images and labels are trained and tested on."""

    GROUP: ClassVar[str] = "data"
    name: str = setting("mnist", "the data set: packaged (mnist) or downloaded on first use", group=True)
    dir: str | None = setting(
        None, "your own data: a folder per class, an .npz file, or four IDX files (docs/configuration.md)"
    )
    digest: str | None = setting(None, "expected SHA-256 of the arrays; other data are refused")
    train_limit: int | None = setting(
        None, "use only the first N training images; null: all", unit="images", ge=1
    )
    test_limit: int | None = setting(None, "use only the first N test images; null: all", unit="images", ge=1)
    validation: int = setting(
        0, "validate on the last N training images, not on the test set", unit="images", ge=0
    )
    format: Format = setting(Format.channels_last, "position of the channel axis in the image arrays")
    num_classes: int | None = setting(
        None, "number of classes; null is that of the labels, which start at 0", unit="classes", ge=2, le=256
    )
    class_names: tuple[str, ...] = setting((), "names of the classes, in the order of their labels")
    pictures: Pictures | None = setting(
        None, "predict finds the ink, or takes the whole picture; null is whole if the data are pictures"
    )
    size: int | None = setting(
        None, "side to which pictures are resized; null: all have one size", unit="pixels", ge=1, le=500
    )
    test_fraction: float = setting(
        0.2, "fraction of each class to test on, for class folders without train/ and test/", gt=0, lt=1
    )

    @property
    def classes(self) -> int:
        """The number of classes, which every job has."""
        if self.num_classes is None:
            raise ConfigurationError("data.num_classes=null: a job needs a number", "make the job again")
        return self.num_classes

    @property
    def held_out(self) -> str:
        """The name of the images that evaluate each epoch."""
        return "validation" if self.validation else "test"


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The network.

    Convolutions and max poolings, dropout, a dense layer, dropout, softmax.
    """

    GROUP: ClassVar[str] = "model"
    filters: tuple[int, ...] = setting((32, 64), "filters of each convolution, in order", ge=1, le=4096)
    kernel_size: int = setting(3, "side of each convolution's kernel", unit="pixels", ge=1, le=64)
    stem_kernel_size: int | None = setting(
        None, "kernel side of the first convolution; null is kernel_size", unit="pixels", ge=1, le=64
    )
    stem_stride: int = setting(1, "stride of the first convolution", unit="pixels", ge=1, le=64)
    batch_norm: bool = setting(
        default=False, meaning="batch normalisation before the ReLU of all convolutions except the first"
    )
    batch_norm_momentum: float = setting(
        0.9, "fraction of its moving statistics that is kept at each step", ge=0, lt=1
    )
    pool_size: int = setting(2, "side of a max pooling's window", unit="pixels", ge=1, le=64)
    pool_after: tuple[int, ...] = setting(
        (), "convolutions that a max pooling follows, counted from 1; [] pools after the last", ge=1, le=16
    )
    conv_dropout: float = setting(0.25, "dropout rate after the last convolution", ge=0, lt=1)
    dense_units: int = setting(128, "units of the hidden dense layer; 0 leaves it out", ge=0, le=65536)
    dense_dropout: float = setting(0.5, "dropout rate after the dense layer", ge=0, lt=1)
    file: str | None = setting(None, "a Python file whose build() makes the network instead")
    source: str | None = setting(None, "the text of model.file; set automatically")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.filters) <= 16:  # noqa: PLR2004 - the message says it
            message = f"model.filters={list(self.filters)}: must be 1 to 16 convolutions"
            raise ConfigurationError(message, "for example model.filters=[32,64]")

    @property
    def pooled_convolutions(self) -> tuple[int, ...]:
        """The convolutions before a max pooling, counted from 1."""
        return self.pool_after or (len(self.filters),)


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """How the network is trained."""

    GROUP: ClassVar[str] = "train"
    epochs: int = setting(12, "passes over the training set", unit="epochs", ge=1, le=100_000)
    batch_size: int = setting(128, "images per step", unit="images", ge=1, le=65_536)
    optimizer: Optimizer = setting(Optimizer.adadelta, "the optimizer")
    learning_rate: float | None = setting(
        None, "the learning rate; null is one that suits the optimizer", gt=0, le=1000
    )
    schedule: Schedule = setting(
        Schedule.constant, "one_cycle raises the learning rate to learning_rate, then lowers it to almost 0"
    )
    warmup: float = setting(
        0.3, "fraction of the steps in which one_cycle raises the learning rate", ge=0, le=1
    )
    loss: Loss = setting(Loss.categorical_crossentropy, "the loss; it decides whether labels are one-hot")
    label_smoothing: float = setting(
        0.0, "fraction of each target that is spread over all classes", ge=0, lt=1
    )
    rotation: float = setting(
        0.0, "rotate images at random by up to this, in both directions", unit="degrees", ge=0, le=180
    )
    zoom: float = setting(0.0, "enlarge or shrink images at random by up to this share", ge=0, lt=1)
    shear: float = setting(0.0, "shear images at random by up to this", unit="pixels per pixel", ge=0, le=2)
    shift: float = setting(
        0.0, "shift images at random by up to this along each axis", unit="pixels", ge=0, le=64
    )
    unaugmented_epochs: int = setting(
        0, "number of last epochs that train on unchanged images", unit="epochs", ge=0, le=100_000
    )
    precision: Precision = setting(
        Precision.float32,
        "arithmetic of training; auto is bfloat16 if the device supports it, or if numerics is exact",
    )
    numerics: Numerics = setting(
        Numerics.native, "native is fastest; exact gives equal weights on every Linux machine with x86-64"
    )
    exact_bits: int = setting(
        7,
        "bits to which exact numerics round each operand; more are more accurate and slower",
        unit="bits",
        ge=2,
        le=12,
    )
    checkpoint_every: int = setting(
        1, "write a checkpoint every N epochs, and after the last", unit="epochs", ge=1, le=100_000
    )
    threads: int | None = setting(
        None, "threads per operation; null lets TensorFlow choose", unit="threads", ge=1, le=1024
    )
    shards: int = setting(
        1, "parts that each batch is cut into; as many workers can share it", unit="shards", ge=1, le=1024
    )
    stop_patience: int | None = setting(
        None,
        "stop if the validation loss has not improved for N epochs; needs data.validation",
        unit="epochs",
        ge=1,
        le=100_000,
    )
    keep: Keep = setting(
        Keep.last, "which epoch's weights are saved; best has the lowest validation loss (data.validation)"
    )
    class_weights: ClassWeights | tuple[float, ...] | None = setting(
        None,
        "how much each class counts in the loss; balanced makes rare classes count as much",
        gt=0,
        le=1000,
    )
    init: str | None = setting(
        None, "start from the weights of this run, or of a .keras or .h5 file, instead of random ones"
    )
    init_sha256: str | None = setting(None, "expected SHA-256 of these weights; others are refused")
    metrics: tuple[str, ...] = setting(
        (), "more of Keras' metrics on the held-out images, for example [f1_score,auc]"
    )

    @property
    def rate(self) -> float:
        """The learning rate as a number."""
        return self.optimizer.rate if self.learning_rate is None else self.learning_rate


class Registry(StrEnum):
    """Which registry gets a model.

    The backend's own (a folder, or the workspace), or MLflow's.
    """

    backend = "backend"
    mlflow = "mlflow"


@dataclasses.dataclass(frozen=True)
class RegisterConfig(Section):
    """Whether and where a finished run's model is registered."""

    GROUP: ClassVar[str] = "register"
    name: str | None = setting(None, "the model's name in the registry; null doesn't register it")
    to: Registry = setting(
        Registry.backend, "the registry: the backend's own, or the one of track.mlflow.uri"
    )
    min_accuracy: float = setting(0.95, "refuse a model with a lower test accuracy", ge=0, le=1)
    dir: str = setting("models", "folder of the local registry")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", self.name):
            message = (
                f"register.name={written(self.name)}: must be 1 to 255 letters, digits, '-', '_' and '.'"
            )
            raise ConfigurationError(message, "for example register.name=mnist-cnn")


@dataclasses.dataclass(frozen=True)
class MlflowConfig(Section):
    """The keys of `track=mlflow`."""

    GROUP: ClassVar[str] = "track.mlflow"
    enabled: bool = setting(default=False, meaning="track runs with MLflow; set by track=mlflow")
    uri: str | None = setting(
        None, "server or store; null is MLFLOW_TRACKING_URI, or mlflow.db in the current folder"
    )
    experiment: str = setting("mnist-cnn", "the experiment's name; created if missing")


@dataclasses.dataclass(frozen=True)
class TensorBoardConfig(Section):
    """The keys of `track=tensorboard`."""

    GROUP: ClassVar[str] = "track.tensorboard"
    enabled: bool = setting(
        default=False, meaning="write TensorBoard's event files; set by track=tensorboard"
    )


@dataclasses.dataclass(frozen=True)
class TrackConfig(Section):
    """Which trackers show the run; not in the job."""

    GROUP: ClassVar[str] = "track"
    mlflow: MlflowConfig = inner(MlflowConfig, "an MLflow server or store")
    tensorboard: TensorBoardConfig = inner(TensorBoardConfig, "files that TensorBoard shows")

    @property
    def enabled(self) -> dict[str, Section]:
        """The settings of each enabled tracker, by name."""
        trackers = {name: getattr(self, name) for name, _ in keys_of(TrackConfig)}
        return {name: section for name, section in trackers.items() if section.enabled}


@dataclasses.dataclass(frozen=True)
class BackendConfig(Section):
    """The keys that all backends share."""

    GROUP: ClassVar[str] = "backend"
    name: str = setting("local", "where the job runs", group=True)


@dataclasses.dataclass(frozen=True)
class SearchConfig(Section):
    """How `search` searches; only that command takes these keys."""

    GROUP: ClassVar[str] = "search"
    name: str = setting("asha", "the kind of search", group=True)
    trials: int = setting(20, "how many combinations of settings are tried", unit="trials", ge=1, le=100_000)
    dir: str | None = setting(None, "the search's folder; null is one in runs_dir, named after the search")
    seed: int = setting(0, "decides which settings are tried", ge=0, le=2**32 - 1)
    sampler: Sampler = setting(
        Sampler.random, "how settings are drawn: at random, or near the best so far (tpe)"
    )
    reduction: int = setting(
        3, "N: the best 1/N of the compared trials continue; 1 trains every trial to the end", ge=1, le=100
    )
    min_epochs: int = setting(
        1,
        "when trials are first compared; later comparisons multiply this by search.reduction",
        unit="epochs",
        ge=1,
        le=100_000,
    )
    parallel: int | None = setting(
        None,
        "how many trials train at once; null is one here, as many as possible on a cluster",
        unit="trials",
        ge=1,
        le=1024,
    )


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """The keys that belong to no group."""

    seed: int = setting(
        0, "decides initial weights, image order, augmentation and dropout", ge=0, le=2**32 - 1
    )
    run_dir: str | None = setting(None, "the run's folder; null creates one in runs_dir")
    runs_dir: str = setting("runs", "folder that holds the run folders")
    save_h5: bool = setting(default=False, meaning="also write the tutorial's keras-tf-mnist.h5")
    pause_after: int | None = setting(
        None,
        "pause the run after this epoch, before it is evaluated; resume continues it",
        unit="epochs",
        ge=1,
    )
    force: bool = setting(
        default=False,
        meaning="resume even if the job or the machine has changed; the result records the change",
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A complete configuration; every value has been checked."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    register: RegisterConfig
    backend: BackendConfig
    track: TrackConfig = dataclasses.field(default_factory=TrackConfig)
