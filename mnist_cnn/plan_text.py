"""Describe for a plan what a job trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.config import Keep, Numerics, Schedule
from mnist_cnn.result import describe_epochs
from mnist_cnn.settings import written
from mnist_cnn.training.model import convolutions, is_normalised

if TYPE_CHECKING:
    from mnist_cnn.config import Config, ModelConfig, TrainConfig
    from mnist_cnn.data.datasets import DataSetInfo


def describe_data(config: Config, info: DataSetInfo) -> str:
    data = config.data
    held_out = f", {data.validation} of them for validation" if data.validation else ""
    name = data.dir or f"{data.name} ({info.location})"
    return (
        f"{name}, {data.train_limit or info.train_images} training images{held_out}, "
        f"{data.test_limit or info.test_images} test images, {data.format.value}"
    )


def describe_model(model: ModelConfig, classes: int) -> str:
    if model.file is not None:
        return f"built by {model.file}"
    layers = []
    for number, (kernel_size, stride) in enumerate(convolutions(model), 1):
        step = f"/{stride}" if stride > 1 else ""
        layers.append(f"conv {kernel_size}x{kernel_size}{step}x{model.filters[number - 1]}")
        if number in model.pooled_convolutions:
            layers.append(f"maxpool {model.pool_size}x{model.pool_size}")
        if is_normalised(model, number):
            layers.append("batch norm")
    if model.conv_dropout:
        layers.append(f"dropout {model.conv_dropout:g}")
    if model.dense_units:
        layers.append(f"dense {model.dense_units}")
        if model.dense_dropout:
            layers.append(f"dropout {model.dense_dropout:g}")
    return " - ".join([*layers, f"dense {classes}"])


def describe_training(train: TrainConfig) -> str:
    in_one_cycle = " in one cycle" if train.schedule is Schedule.one_cycle else ""
    shards = f" in {train.shards} shards" if train.shards > 1 else ""
    parts = [
        f"{describe_epochs(train.epochs)} in batches of {train.batch_size}{shards}",
        f"{train.optimizer.value}, learning rate {train.rate:g}{in_one_cycle}",
        train.loss.value,
    ]
    if train.label_smoothing:
        parts.append(f"label smoothing {train.label_smoothing:g}")
    if train.class_weights is not None:
        parts.append(f"class weights {written(train.class_weights)}")
    augmentation = ("rotation", "zoom", "shear", "shift")
    augmented = [f"{name} {value:g}" for name in augmentation if (value := getattr(train, name))]
    parts += augmented
    if augmented and train.unaugmented_epochs:
        parts.append(f"but not in the last {describe_epochs(train.unaugmented_epochs)}")
    if train.init is not None:
        parts.append(f"starting from {train.init}")
    if train.stop_patience is not None:
        parts.append(f"stop after {describe_epochs(train.stop_patience)} without a lower validation loss")
    if train.keep is Keep.best:
        parts.append("save the best epoch")
    if train.numerics is Numerics.native:
        return ", ".join([*parts, f"precision {train.precision.value}"])
    parts += [
        f"precision {train.precision.for_exact.value}",
        f"exact sums of {train.exact_bits}-bit operands",
    ]
    return ", ".join(parts)
