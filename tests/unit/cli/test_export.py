"""What `export` refuses before it imports TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.cli import Ask, refusal
from helpers.records import write_receipt, write_result

from mnist_cnn.backend import Status
from mnist_cnn.errors import DataError
from mnist_cnn.training import formats

SAVED_MODEL = ("--saved-model", "digits")


@pytest.fixture
def run(home: Path) -> str:
    """A completed run, whose model is no network."""
    write_result(home / "runs" / "first")
    return "first"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((), "export needs a format", "export first --saved-model digits"),
        (("--litert",), "--litert needs a value", "--litert=FILE"),
        (("--litert", "taken"), "--litert taken: it exists", "remove it first"),
        (("--saved-model", "taken"), "--saved-model taken: it exists", "remove it first"),
        ((*SAVED_MODEL, "train.epochs=3"), "export does not take train.epochs=3", "runs_dir"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused(  # noqa: PLR0913, PLR0917 - a case and the fixtures
    ask: Ask, home: Path, run: str, words: tuple[str, ...], message: str, hint: str
) -> None:
    (home / "taken").symlink_to("nowhere")
    printed = refusal(ask("export", run, *words))
    assert printed[0] == message
    assert hint in printed[1]


def test_a_model_that_cannot_be_exported_is_refused(ask: Ask, home: Path, run: str) -> None:
    assert refusal(ask("export", *SAVED_MODEL))[0] == "export needs one RUN"
    message = refusal(ask("export", "runs/first/model.onnx", *SAVED_MODEL))[0]
    assert message.startswith("export needs a run or a registered model")
    model = home / "runs" / run / "model.keras"
    model.write_bytes(b"changed")
    message, hint = refusal(ask("export", run, *SAVED_MODEL), 3)
    assert message == f"{Path('runs', run, model.name)} is not the file that the training wrote"
    assert f"resume {Path('runs', run)}" in hint
    write_receipt(home / "runs" / "second", Status.running)
    message, hint = refusal(ask("export", "second", *SAVED_MODEL), 3)
    assert message.endswith("its training is not completed")
    assert "follow" in hint
    assert sorted(path.name for path in home.iterdir()) == ["runs"]


def test_a_file_that_is_no_network_exits_3(ask: Ask, home: Path, run: str) -> None:
    message, _ = refusal(ask("export", run, *SAVED_MODEL), 3)
    assert message.startswith(f"{Path('runs', run)}/model.keras cannot be loaded: ")
    assert sorted(path.name for path in home.iterdir()) == ["runs"]
    assert "tensorflow" in sys.modules


def test_a_network_with_a_custom_layer_names_the_file_that_works(tmp_path: Path) -> None:
    import keras

    layer = type("Halve", (keras.layers.Layer,), {"call": lambda _self, images: images / 2})
    keras.Sequential([keras.Input((2,)), layer()]).save(tmp_path / "model.keras")
    with pytest.raises(
        DataError, match="has layers of custom classes, which export does not support"
    ) as error:
        formats.load(tmp_path / "model.keras")
    assert "model.onnx" in error.value.hint
