"""The overrides that make a job make exactly that job."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.processes import SMALL, TINY

import mnist_cnn
from mnist_cnn import compose, launch, overrides, run_folder
from mnist_cnn.errors import ConfigurationError

OLD_RUNS = Path(__file__).parents[1] / "data" / "runs-of-schema-1"
GIVEN = [
    (),
    ("train=quick",),
    ("model=deep", "train=balanced"),
    ("train=accurate", "seed=2", "train.precision=float32"),
    SMALL,
    TINY,
    ("data.validation=5000", "train.numerics=exact", "train.shards=4", "save_h5=true"),
    ("train.learning_rate=1e-05", "train.threads=3", "model.filters=[8]", "model.pool_after=[1]"),
]


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_a_job_is_made_again_by_as_many_overrides_at_most(given: tuple[str, ...]) -> None:
    job = launch.make_job(*given)
    found = overrides.overrides_of(job)
    assert launch.make_job(*found) == job
    assert len(found) <= len(given)


NAMED = [
    (),
    *((f"train={name}",) for name in ("accurate", "balanced", "quick")),
    *((f"model={name}",) for name in ("compact", "deep")),
    ("train=quick", "model=cnn"),
    ("train=balanced", "train.epochs=3", "seed=7"),
    ("train.optimizer=adam", "save_h5=true"),
    ("train.optimizer=sgd", "train.learning_rate=0.02"),
    ("data.train_limit=500", "data.validation=100", "model.filters=[4,8]"),
]


@pytest.mark.parametrize("given", NAMED, ids=" ".join)
def test_the_settings_shown_are_those_that_were_given(given: tuple[str, ...]) -> None:
    job = launch.make_job(*given)
    assert sorted(str(overrides.settings_of(job)).split()) == sorted(given)
    assert sorted(overrides.overrides_of(job)) == sorted(given)


def test_the_defaults_are_those_of_no_override() -> None:
    values = overrides.settings_of(launch.make_job()).values
    assert overrides.defaults(values) == {**values, "data.digest": None}


def test_a_recipe_is_named() -> None:
    job = launch.make_job("train=quick", "seed=3")
    assert overrides.overrides_of(job) == ("train=quick", "seed=3")
    job = launch.make_job("train=quick", "model=deep")
    assert overrides.overrides_of(job) == ("train=quick", "model=deep")


def test_data_in_a_folder_are_named_by_folder_and_digest() -> None:
    folder = Path(mnist_cnn.__file__).parent / "data" / "mnist"
    job = launch.make_job(f"data.dir={folder}")
    found = overrides.overrides_of(job)
    assert sorted(found) == [
        f"data.digest={job.data.digest}",
        f"data.dir={folder}",
        "data.num_classes=10",
    ]
    assert launch.make_job(*found).digest == job.digest


def test_a_data_set_is_named_without_its_digest() -> None:
    job = launch.make_job()
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, name="kmnist", digest="0" * 64))
    assert overrides.overrides_of(job) == ("data=kmnist",)


def test_a_network_of_the_users_own_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my net.py").write_text("def build(): ...\n")
    job = launch.make_job("model.file='my net.py'")
    found = overrides.overrides_of(job)
    assert found == ('model.file="my net.py"',)
    assert launch.make_job(*found) == job


TEXTS = [
    "it's",
    'a "b"',
    "\\",
    'a\\"',
    "a\\\\",
    "${seed}",
    "null",
    "Yes",
    "1e5",
    "a,b",
    "[x]",
    "{a: 1}",
    "# ä=$(x) ",
]


def test_any_folder_is_written_as_hydra_reads_it() -> None:
    job = launch.make_job()
    for text in TEXTS:
        changed = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=text))
        assert compose.load(overrides.overrides_of(changed)).data.dir == text


def test_a_job_of_the_schema_before_is_made_again() -> None:
    job = run_folder.read_job(OLD_RUNS / "completed")
    again = launch.make_job(*overrides.overrides_of(job))
    assert again.has_digest(run_folder.read_receipt(OLD_RUNS / "completed").job_digest)


def test_overrides_that_make_another_job_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    job = launch.make_job()
    monkeypatch.setattr(overrides, "quoted", lambda value: "7")
    changed = dataclasses.replace(job, train=dataclasses.replace(job.train, epochs=8))
    with pytest.raises(ConfigurationError, match="no command line makes this job"):
        overrides.overrides_of(changed)


def test_the_hash_of_the_initial_weights_is_not_shown() -> None:
    job = launch.make_job()
    train = dataclasses.replace(job.train, init="model.keras", init_sha256="1" * 64)
    found = overrides.settings_of(dataclasses.replace(job, train=train))
    assert str(found) == "train.init=model.keras"


def test_settings_of_an_old_job_have_todays_names(tmp_path: Path) -> None:
    content = json.loads((OLD_RUNS / "completed" / "job.json").read_text())
    content["train"]["clean_epochs"] = 2
    (tmp_path / "job.json").write_text(json.dumps(content))
    found = overrides.read(tmp_path)
    assert found is not None
    assert found.changed["train.unaugmented_epochs"] == 2
    assert found.values["train.shards"] == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "data": 1}', '{"schema": 3}'])
def test_a_file_that_is_not_a_job_has_no_settings(text: str) -> None:
    assert overrides.parse(text.encode()) is None
