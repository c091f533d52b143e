"""The configuration schema: every value is checked; the digest covers what decides the weights."""

from __future__ import annotations

import dataclasses
import json
import math
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_cnn.backends.local import Device, LocalConfig
from mnist_cnn.config import (
    ClassWeights,
    DataConfig,
    Format,
    ModelConfig,
    Optimizer,
    RegisterConfig,
    RunConfig,
    TrainConfig,
)
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.job import Job
from mnist_cnn.settings import Section, allowed, full_key, keys_of, read_section

SECTIONS = (RunConfig, DataConfig, ModelConfig, TrainConfig, RegisterConfig, LocalConfig)
KEYS: list[tuple[type[Section], str]] = [(group, name) for group in SECTIONS for name, _ in keys_of(group)]
JOB = Job(DataConfig(digest="0" * 64), ModelConfig(), TrainConfig(), seed=0)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([10**400, -(10**400), 1e400]),
    st.sampled_from(["", "null", "true", "1", "1e3", "-0", "nan", "inf", "???", "${seed}", "0x1f", "1_000"]),
    st.sampled_from([member.value for kind in (Format, Optimizer, Device) for member in kind]),
)


def refusal(section: type[Section], name: str, value: object) -> str:
    """Return the message that refuses a value: one line that begins with the key."""
    with pytest.raises(ConfigurationError) as caught:
        read_section(section, {name: value})
    assert caught.value.message.startswith(f"{full_key(section, name)}=")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_a_section_without_values_has_its_defaults() -> None:
    for section in SECTIONS:
        assert read_section(section, {}) == section()


def test_every_key_has_a_meaning_and_lists_its_values() -> None:
    for section, name in KEYS:
        assert dict(keys_of(section))[name].meaning
        assert "class" not in allowed(section, name)


BOUNDED = [(section, name) for section, name in KEYS if dict(keys_of(section))[name].bounds()]


@pytest.mark.parametrize(("section", "name"), BOUNDED, ids=[full_key(*pair) for pair in BOUNDED])
def test_a_number_is_accepted_at_its_bound_and_refused_beyond(section: type[Section], name: str) -> None:
    spec = dict(keys_of(section))[name]
    kind = get_type_hints(section)[name]
    is_list = any(get_origin(member) is tuple for member in (kind, *get_args(kind)))
    step = 1e-9 if kind is float else 1
    steps = [(spec.ge, 0, -step), (spec.le, 0, step), (spec.gt, step, 0), (spec.lt, -step, 0)]
    for bound, inside, outside in steps:
        if bound is not None:
            number, beyond = bound + inside, bound + outside
            made = read_section(section, {name: [number] if is_list else number})
            assert getattr(made, name) == ((number,) if is_list else number)
            message = refusal(section, name, [beyond] if is_list else beyond)
            assert message.endswith(f"must be {allowed(section, name)}")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "nan", "inf", "-inf", ".nan", ".inf"])
def test_a_number_that_is_not_finite_is_refused(number: object) -> None:
    for section, name in KEYS:
        if get_type_hints(section)[name] is float:
            refusal(section, name, number)


@pytest.mark.parametrize("number", [10**400, -(10**400)], ids=["high", "low"])
def test_a_number_too_large_for_a_float_is_refused(number: int) -> None:
    for section, name in BOUNDED:
        value = [number] if name == "filters" else number
        bounds = dict(keys_of(section))[name]
        if number > 0 and bounds.le is None and bounds.lt is None:
            assert getattr(read_section(section, {name: value}), name) == number
        else:
            refusal(section, name, value)


@pytest.mark.parametrize("truth", [True, False])
def test_a_truth_value_is_neither_a_number_nor_text(truth: bool) -> None:  # noqa: FBT001 - what is tested
    for section, name in KEYS:
        if get_type_hints(section)[name] is not bool:
            assert f"={str(truth).lower()}: " in refusal(section, name, truth)
    assert f"=[32,{str(truth).lower()}]: " in refusal(ModelConfig, "filters", [32, truth])


def test_null_is_accepted_only_if_the_key_says_so() -> None:
    for section, name in KEYS:
        if type(None) in get_args(get_type_hints(section)[name]):
            assert allowed(section, name).endswith(", or null")
            assert getattr(read_section(section, {name: None}), name) is None
        else:
            assert "=null: " in refusal(section, name, None)


def test_a_choice_is_read_by_name_and_a_refusal_lists_all() -> None:
    for section, name in KEYS:
        kind = get_type_hints(section)[name]
        if not (isinstance(kind, type) and issubclass(kind, Enum)):
            continue
        for member in kind:
            assert getattr(read_section(section, {name: member.value}), name) is member
        names = ", ".join(member.value for member in kind)
        assert refusal(section, name, "other").endswith(f"one of {names}")


CONVERTED: list[tuple[type[Section], str, object, object]] = [
    (TrainConfig, "epochs", "3", 3),
    (TrainConfig, "learning_rate", 1, 1.0),
    (TrainConfig, "learning_rate", "1e-3", 0.001),
    (DataConfig, "dir", 7, "7"),
    (RunConfig, "save_h5", "true", True),
    (ModelConfig, "filters", [8, "16"], (8, 16)),
    (TrainConfig, "class_weights", [1, "0.5"], (1.0, 0.5)),
    (TrainConfig, "class_weights", "balanced", ClassWeights.balanced),
]


def test_a_value_of_another_type_is_converted() -> None:
    for section, name, value, made in CONVERTED:
        converted = getattr(read_section(section, {name: value}), name)
        assert converted == made
        assert type(converted) is type(made)


WRONG: dict[tuple[type[Section], str], list[Any]] = {
    (TrainConfig, "epochs"): [1.5, "three", "", [1], {"a": 1}],
    (TrainConfig, "learning_rate"): ["fast"],
    (RunConfig, "save_h5"): ["maybe"],
    (DataConfig, "dir"): [["a"]],
    (ModelConfig, "filters"): [32, [32, 1.5], [32, "x"], [32, 0], [], [1] * 17],
    (RegisterConfig, "name"): ["", "../up", "a/b", ".hidden", "a" * 256, "line\n"],
}


@pytest.mark.parametrize(
    ("section", "name", "value"), [(*key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused(section: type[Section], name: str, value: object) -> None:
    assert "must be" in refusal(section, name, value)


def test_a_configuration_is_immutable() -> None:
    section = read_section(TrainConfig, {"epochs": 3})
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.epochs = 4  # type: ignore[misc]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), SCALARS | st.lists(SCALARS, max_size=3))
def test_any_value_of_any_key_is_accepted_or_refused_by_name(
    key: tuple[type[Section], str], value: object
) -> None:
    section, name = key
    try:
        made = read_section(section, {name: value})
    except ConfigurationError as error:
        assert full_key(section, name) in error.message  # noqa: PT017 - most values are refused
        assert "\n" not in error.message  # noqa: PT017
        return
    taken = getattr(made, name)
    spec = dict(keys_of(section))[name]
    for number in taken if isinstance(taken, tuple) else (taken,):
        if isinstance(number, int | float):
            assert isinstance(number, int) or math.isfinite(number)
            assert spec.ge is None or number >= spec.ge
            assert spec.le is None or number <= spec.le
            assert spec.gt is None or number > spec.gt
            assert spec.lt is None or number < spec.lt
    if section.GROUP in ("data", "model", "train"):
        job = dataclasses.replace(JOB, **{section.GROUP: made})  # type: ignore[arg-type]
        assert Job.from_json(job.to_json()) == job


OTHER: dict[str, Any] = {
    "data.digest": "1" * 64,
    "data.train_limit": 5,
    "data.test_limit": 5,
    "data.validation": 5,
    "data.format": Format.channels_first,
    "data.num_classes": 5,
    "model.filters": [8],
    "model.kernel_size": 5,
    "model.stem_kernel_size": 5,
    "model.stem_stride": 2,
    "model.batch_norm": True,
    "model.batch_norm_momentum": 0.5,
    "model.pool_size": 3,
    "model.pool_after": [1],
    "model.conv_dropout": 0.1,
    "model.dense_units": 5,
    "model.dense_dropout": 0.1,
    "model.source": "def build(): ...",
    "train.epochs": 5,
    "train.batch_size": 5,
    "train.optimizer": Optimizer.adam,
    "train.learning_rate": 0.5,
    "train.schedule": "one_cycle",
    "train.warmup": 0.5,
    "train.label_smoothing": 0.1,
    "train.rotation": 5.0,
    "train.zoom": 0.1,
    "train.shear": 0.1,
    "train.shift": 1.0,
    "train.unaugmented_epochs": 5,
    "train.loss": "sparse_categorical_crossentropy",
    "train.precision": "bfloat16",
    "train.numerics": "exact",
    "train.threads": 5,
    "train.shards": 5,
    "train.stop_patience": 5,
    "train.keep": "best",
    "train.class_weights": "balanced",
    "train.init_sha256": "5" * 64,
}
WITHOUT_WEIGHT = {
    "data.dir": "/elsewhere",
    "data.name": "fashion_mnist",
    "data.class_names": ["no", "yes"],
    "data.pictures": "whole",
    "data.size": 5,
    "data.test_fraction": 0.5,
    "model.file": "other.py",
    "train.checkpoint_every": 5,
    "train.init": "elsewhere.keras",
    "train.metrics": ["auc"],
    "train.exact_bits": 5,  # without numerics=exact
}


def job_with(key: str, value: object) -> Job:
    group, _, name = key.partition(".")
    plain = json.loads(JOB.to_json())[group]
    changed = read_section(type(getattr(JOB, group)), {**plain, name: value})
    return dataclasses.replace(JOB, **{group: changed})


def test_every_key_of_a_job_is_tested_for_the_digest() -> None:
    sections = (DataConfig, ModelConfig, TrainConfig)
    keys = {full_key(section, name) for section in sections for name, _ in keys_of(section)}
    assert keys == {*OTHER, *WITHOUT_WEIGHT}


@pytest.mark.parametrize("key", OTHER)
def test_what_decides_the_weights_changes_the_digest(key: str) -> None:
    assert job_with(key, OTHER[key]).digest != JOB.digest


@pytest.mark.parametrize("key", WITHOUT_WEIGHT)
def test_locations_and_file_names_do_not_change_the_digest(key: str) -> None:
    other = job_with(key, WITHOUT_WEIGHT[key])
    assert other != JOB
    assert other.digest == JOB.digest


def test_the_digest_covers_the_seed_but_not_the_files_written() -> None:
    assert dataclasses.replace(JOB, seed=1).digest != JOB.digest
    assert dataclasses.replace(JOB, save_h5=True).digest == JOB.digest


@pytest.mark.parametrize("source", [None, "???", "${seed}", "a = '${nothing}'", "${", "é\n\t\\"])
def test_a_job_survives_json_whatever_its_network_file_holds(source: str | None) -> None:
    job = dataclasses.replace(JOB, model=ModelConfig(file="net.py", source=source))
    assert Job.from_json(job.to_json()) == job
    assert json.loads(job.to_json())["digest"] == job.digest


def changed(**values: object) -> str:
    return json.dumps({**json.loads(JOB.to_json()), **values})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(JOB.to_json()).items() if key != name})


NOT_A_JOB = ["", "{", "[]", "null", '"text"', "{}"]
INCOMPLETE = [without(name) for name in ("schema", "digest", "data", "seed", "save_h5")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "is not a job") for text in (*NOT_A_JOB, *INCOMPLETE)),
        (changed(train=None), "train=null: train is a group of keys"),
        (changed(train=[1]), "train=[1]: train is a group of keys"),
        (changed(train="epochs"), "train=epochs: train is a group of keys"),
        (changed(train={"epochs": 0}), "train.epochs=0: must be a whole number"),
        (changed(train={"epoch": 1}), "unknown key train.epoch"),
        (changed(schema=3), "it is of schema 3; this version reads schemas 1 and 2"),
        (changed(seed=1), "its digest does not match its content"),
        (changed(digest="0"), "its digest does not match its content"),
        (changed(train={"epochs": 3}), "its digest does not match its content"),
    ],
)
def test_a_damaged_job_file_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Job.from_json(text, "runs/a/job.json")
    assert caught.value.message.startswith("runs/a/job.json")
    assert said in caught.value.message
    assert caught.value.hint.endswith("start a new run")
