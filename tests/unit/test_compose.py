"""Overrides in Hydra's syntax become one checked configuration, or an error."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mnist_cnn import compose
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.local import Device, LocalConfig
from mnist_cnn.config import (
    CONF_DIR,
    BackendConfig,
    Config,
    DataConfig,
    Format,
    ModelConfig,
    RegisterConfig,
    RunConfig,
    TrainConfig,
)
from mnist_cnn.errors import ConfigurationError

CUSTOM_BACKEND = """
import dataclasses
from mnist_cnn.config import BackendConfig
from mnist_cnn.settings import setting

@dataclasses.dataclass(frozen=True)
class OwnConfig(BackendConfig):
    queue: str = setting("short", "where it waits")

class Own:
    CONFIG = OwnConfig
    parallel_runs = 1
    ends_with_its_command = True
    def plan(self, job): ...
    def check(self, job): ...
    def submit(self, job, folder): ...
    def attach(self, folder): ...
"""


def config_dir(folder: Path, option: str, text: str) -> str:
    """Add an option such as model/tiny to a folder like conf/; return the folder."""
    file = folder / f"{option}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(folder)


def refusal(*overrides: str, config_dirs: tuple[str, ...] = ()) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        compose.load(overrides, config_dirs)
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


def test_without_overrides_it_is_the_tutorial() -> None:
    assert compose.load(()) == Config(
        RunConfig(), DataConfig(), ModelConfig(), TrainConfig(), RegisterConfig(), LocalConfig()
    )


def test_each_override_reaches_its_key() -> None:
    run = ("seed=7", "save_h5=true", "register.name=digits", "backend.device=cpu")
    job = ("train.epochs=3", "train.threads=null", "data=kmnist", "data.format=channels_first")
    assert compose.load([*run, *job, "model.filters=[8,16]"]) == Config(
        RunConfig(seed=7, save_h5=True),
        DataConfig(name="kmnist", format=Format.channels_first),
        ModelConfig(filters=(8, 16)),
        TrainConfig(epochs=3),
        RegisterConfig(name="digits"),
        LocalConfig(device=Device.cpu),
    )


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_plus_signs_before_a_key_change_nothing(prefix: str) -> None:
    assert compose.load([f"{prefix}train.epochs=3"]).train.epochs == 3
    assert compose.load([f"{prefix}data.train_limit=3"]).data.train_limit == 3  # in no YAML file
    assert compose.load([f"{prefix}data=kmnist"]).data.name == "kmnist"
    assert refusal(f"{prefix}train.epoch=3").hint == "did you mean train.epochs?"


def test_the_last_of_two_overrides_of_one_key_wins() -> None:
    assert compose.load(["seed=1", "seed=2"]).run.seed == 2


@pytest.mark.parametrize(
    ("written", "folder"),
    [
        *((path, path) for path in ("/a/b-c_d.e", "with blank", "C:/x", "007")),
        ('"a,b=c"', "a,b=c"),
        ("'a: [b'", "a: [b"),
        (r"a\,b", "a,b"),
    ],
)
def test_a_quoted_value_is_kept_as_it_is(written: str, folder: str) -> None:
    assert compose.load([f"data.dir={written}"]).data.dir == folder


@pytest.mark.parametrize("override", ["data.dir=a,", "data.dir=[a", "data.dir='a", "seed", "data.dir=a)"])
def test_an_unreadable_override_is_refused_with_how_to_quote(override: str) -> None:
    error = refusal(override)
    assert error.message == f"cannot read the override {override}"
    assert "quote" in error.hint


def test_an_interpolation_is_replaced_by_the_other_keys_value() -> None:
    assert compose.load(["seed=5", "runs_dir=runs-${seed}"]).run.runs_dir == "runs-5"


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ("backend.devcie=cpu", "unknown key backend.devcie", "did you mean backend.device?"),
        ("sed=1", "unknown key sed", "did you mean seed?"),
        ("nothing.like.it=1", "unknown key nothing.like.it", "python -m mnist_cnn help settings"),
        ("+new=1", "unknown key new", "python -m mnist_cnn help settings"),
        ("data=mnits", "data=mnits: must be one of fashion_mnist, kmnist, mnist", "did you mean mnist?"),
        ("model=resnet", "model=resnet: must be one of cnn, compact, deep", "are set as model.KEY=VALUE"),
        ("backend=lokal", "backend=lokal: must be one of azure, local, slurm", "did you mean local?"),
        ("data=null", "data=null: must be one of fashion_mnist, kmnist, mnist", "data.KEY=VALUE"),
        (
            "data=[mnist]",
            "data=[mnist]: must be one of fashion_mnist, kmnist, mnist",
            "did you mean mnist?",
        ),
        ("register=x", "register=x: register is a group of keys", "for example register.name"),
        ("~train", "~train: a key cannot be removed", "set it to another value"),
        ("seed=???", "Missing mandatory value: seed", "python -m mnist_cnn help settings"),
        ("train@x=tutorial", "Could not override 'train@x'.", "python -m mnist_cnn help settings"),
        ("hydra.run.dir=x", "hydra.run.dir=x: Hydra's own settings have no effect here", "leave it out"),
        ("+hydra.job.name=y", "+hydra.job.name=y: Hydra's own settings have no effect here", "leave it out"),
        ("run_dir=''", "run_dir=: must be text that is not empty, or null", "null creates one"),
        ("runs_dir=''", "runs_dir=: must be text that is not empty", "folder that holds"),
        ("data.dir=''", "data.dir=: must be text that is not empty, or null", "folder per class"),
        ("register.dir=''", "register.dir=: must be text that is not empty", "registry"),
        ("model.file=''", "model.file=: must be text that is not empty, or null", "a Python file"),
    ],
)
def test_a_refusal_names_the_key_and_the_alternatives(overrides: str, message: str, hint: str) -> None:
    """More of them are in `helpers.refused`, as whole command lines."""
    error = refusal(*overrides.split())
    assert error.message == message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("key", "became", "hint"),
    [
        ("train.clean_epochs", "renamed", "use train.unaugmented_epochs"),
        ("backend.retries", "renamed", "use backend.preemption_retries"),
        ("backend.start_seconds", "renamed", "use backend.queue_timeout"),
        ("backend.node_count", "removed", "leave it out"),
    ],
)
def test_an_old_key_is_refused_with_its_new_name(key: str, became: str, hint: str) -> None:
    error = refusal("backend=azure", f"{key}=1")
    assert (error.message, error.hint) == (f"{key} was {became}", hint)


def test_a_backend_without_the_new_key_does_not_suggest_it() -> None:
    assert refusal("backend.retries=1").message == "unknown key backend.retries"


def test_a_renamed_key_in_a_yaml_file_is_refused(tmp_path: Path) -> None:
    error = refusal("train=mine", config_dirs=(config_dir(tmp_path, "train/mine", "clean_epochs: 1\n"),))
    assert (error.message, error.hint) == ("train.clean_epochs was renamed", "use train.unaugmented_epochs")


@pytest.mark.parametrize(("name", "section"), [("azure", AzureConfig), ("local", LocalConfig)])
def test_a_backends_yaml_file_lists_all_its_keys(name: str, section: type[BackendConfig]) -> None:
    written: Any = OmegaConf.load(CONF_DIR / "backend" / f"{name}.yaml")
    assert set(written.get("backend", written)) == {field.name for field in dataclasses.fields(section)}


def test_a_config_dir_adds_an_option_to_a_group(tmp_path: Path) -> None:
    more_options = config_dir(tmp_path, "model/tiny", "filters: [4]\ndense_units: 8\n")
    assert compose.options("model", [more_options]) == ["cnn", "compact", "deep", "tiny"]
    config = compose.load(["model=tiny", "model.dense_units=9"], [more_options])
    assert config.model == ModelConfig(filters=(4,), dense_units=9)
    assert compose.load([], [more_options]).model == ModelConfig()
    assert refusal("model=tiny").message == "model=tiny: must be one of cnn, compact, deep"
    assert refusal("model=tinny", config_dirs=(more_options,)).hint == "did you mean tiny?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dense_units: -1\n", r"model\.dense_units=-1: "),
        ("dense_unit: 5\n", r"unknown key model\.dense_unit\ndid you mean model\.dense_units\?"),
        ("dense_units: 3\nbatch_norm: [\n", r"bad\.yaml.*, line \d"),
    ],
)
def test_an_option_from_a_config_dir_is_checked(tmp_path: Path, text: str, said: str) -> None:
    assert re.search(said, str(refusal("model=bad", config_dirs=(config_dir(tmp_path, "model/bad", text),))))


def test_a_missing_config_dir_is_refused(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert refusal(config_dirs=(nowhere,)).message == f"--config-dir {nowhere}: folder not found"
    assert refusal(config_dirs=("",)).message == "--config-dir needs a folder"


def test_a_config_dir_with_special_characters_is_found(tmp_path: Path) -> None:
    folder = config_dir(tmp_path / "a b,c=[d] 'e' %20", "train/quick", "epochs: 1\n")
    assert compose.load(["train=quick"], [folder]).train.epochs == 1


def test_a_custom_backend_has_the_keys_of_its_class(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(CUSTOM_BACKEND, encoding="utf-8")
    config = compose.load([f"backend={file}:Own", "backend.queue=long"])
    assert config.backend.name == f"{file}:Own"
    assert getattr(config.backend, "queue") == "long"  # noqa: B009 - a class that only the file knows
    assert refusal(f"backend={file}:Own", "backend.queu=long").hint == "did you mean backend.queue?"
    assert "is not a backend" in refusal(f"backend={file}:Other").message


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        ([], [[]]),
        (["seed=1"], [["seed=1"]]),
        (["seed=1,2", "train.epochs=3"], [["seed=1", "train.epochs=3"], ["seed=2", "train.epochs=3"]]),
        (["seed=range(1,4)"], [["seed=1"], ["seed=2"], ["seed=3"]]),
        (["seed=choice(4,9)"], [["seed=4"], ["seed=9"]]),
        (["model.filters=[8],[8,16]"], [["model.filters=[8]"], ["model.filters=[8,16]"]]),
        (["data=mnist,kmnist"], [["data=mnist"], ["data=kmnist"]]),
        (["++seed=1,2"], [["++seed=1"], ["++seed=2"]]),
        (["model=glob(*)"], [["model=cnn"], ["model=compact"], ["model=deep"]]),
        (["train=glob(*,exclude=[t*,a*])"], [["train=balanced"], ["train=quick"]]),
        (
            ["seed=1,2", "train.epochs=3,4"],
            [[f"seed={seed}", f"train.epochs={epochs}"] for seed in (1, 2) for epochs in (3, 4)],
        ),
    ],
)
def test_a_sweep_is_every_combination_in_order(overrides: list[str], jobs: list[list[str]]) -> None:
    assert compose.expand(overrides) == jobs
    for job in jobs:
        compose.load(job)


def test_quoted_values_of_a_sweep_are_not_split() -> None:
    dirs = [compose.load(job).data.dir for job in compose.expand(["data.dir='a,b','c d',e"])]
    assert dirs == ["a,b", "c d", "e"]


def test_the_keys_of_a_sweep_are_those_with_more_than_one_value() -> None:
    keys = compose.sweep_keys(["seed=1,2", "train.epochs=3", "++data.test_limit=range(1,3)"])
    assert keys == ["seed", "data.test_limit"]


def test_a_glob_finds_the_options_of_a_config_dir(tmp_path: Path) -> None:
    more_options = config_dir(tmp_path, "model/tiny", "filters: [4]\n")
    assert compose.expand(["model=glob(t*)"], [more_options]) == [["model=tiny"]]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["seed=range(1,inf)"], "inf isn't a finite number"),
        (["seed=range(1,3,0)"], "the step is 0"),
        (["seed=shuffle(range(0,10001))"], "more than 10000 values"),
        (["seed=range(0,101)", "train.epochs=range(0,100)"], "more than 10000 combinations"),
    ],
)
def test_an_endless_or_very_long_sweep_is_refused(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        compose.expand(overrides)
    assert overrides[0] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("override", ["seed=glob(*)", "data=glob(x*)", "seed=1,2,["])
def test_a_sweep_that_cannot_be_expanded_is_refused(override: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose.expand([override])
    assert override in caught.value.message
