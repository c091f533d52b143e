"""The installed wheel, what importing it and running a command import, and what it needs to start."""

from __future__ import annotations

import ast
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import metadata, version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnist_cnn
from mnist_cnn import backends, config

HEAVY = {
    *("azureml", "h5py", "hydra", "keras", "matplotlib", "numpy", "omegaconf", "onnx", "onnxruntime", "PIL"),
    *("pandas", "pooch", "prometheus_client", "psutil", "requests", "rich", "scipy", "sklearn", "starlette"),
    *("tensorflow", "tqdm", "uvicorn"),
}
"""Packages that are slow to import, so that only the code that uses them may import them."""


def loaded_by(code: str) -> set[str]:
    """Return which heavy packages a piece of code imports in a new process."""
    report = f"{code}\nimport sys\nprint('\\nLOADED', *({HEAVY} & sys.modules.keys()))"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", report], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.splitlines()[-1].split()[1:])


def command(*arguments: str) -> str:
    """Return code that runs a command, which must exit with 0, or with 2 if it is refused."""
    return f"from mnist_cnn.cli.main import main; assert main({list(arguments)!r}) in (0, 2)"


def test_the_installed_wheel_is_tested() -> None:
    assert "site-packages" in Path(mnist_cnn.__file__).parts
    assert "site-packages" in Path(backends.__file__).parts
    assert Path(mnist_cnn.__file__).parent / "conf" == config.CONF_DIR
    assert mnist_cnn.__version__ == version("mnist-cnn")


def test_data_licence_and_types_are_packaged() -> None:
    root = files("mnist_cnn")
    assert (root / "py.typed").is_file()
    assert "CC BY-SA 3.0" in (root / "data" / "mnist" / "LICENSE.md").read_text()
    assert len([file for file in (root / "data" / "mnist").iterdir() if file.name.endswith(".gz")]) == 4
    required = [text.replace('"', "'") for text in metadata("mnist-cnn").get_all("Requires-Dist") or []]
    assert "tensorflow[and-cuda]>=2.21; extra == 'gpu'" in required


MODULES = ("mnist_cnn", "mnist_cnn.training.train", "mnist_cnn.launch", "mnist_cnn.prediction.predictor")


@pytest.mark.parametrize("code", [*(f"import {name}" for name in MODULES), command("--version")])
def test_an_import_loads_no_heavy_package(code: str) -> None:
    assert loaded_by(code) == set()


def test_dir_lists_the_api_and_imports_nothing() -> None:
    assert loaded_by("import mnist_cnn; assert dir(mnist_cnn) == sorted(mnist_cnn.__all__)") == set()


@pytest.mark.parametrize("words", ["--help", "plan", "status latest", "train.epochs=0", "train.epoch=1"])
def test_a_command_imports_only_hydra(words: str) -> None:
    assert loaded_by(command(*words.split())) <= {"hydra", "omegaconf"}


def test_status_and_list_import_only_hydra(small_run: Path) -> None:
    assert loaded_by(command("status", str(small_run))) == {"hydra", "omegaconf"}
    assert loaded_by(command("list", "--json", f"runs_dir={small_run.parent}")) == {"hydra", "omegaconf"}


def test_a_training_imports_tensorflow_without_what_it_does_not_need() -> None:
    """All of it is installed here."""
    code = "from mnist_cnn import launch; from mnist_cnn.training import train"
    loaded = loaded_by(f"{code}; train._prepare_tensorflow(launch.make_job(), 'cpu')")
    assert loaded >= {"keras", "tensorflow"}
    assert not loaded & {"pandas", "scipy", "sklearn"}


def test_report_imports_only_hydra(small_run: Path, tmp_path: Path) -> None:
    code = command("report", str(small_run), "--output", str(tmp_path / "run.html"))
    assert loaded_by(code) == {"hydra", "omegaconf"}


def test_predict_imports_no_tensorflow(small_run: Path, tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    code = command("predict", str(small_run), str(tmp_path / "one.png"))
    assert loaded_by(code) == {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("name", ["__init__", "__main__", "version"])
def test_an_old_python_can_read_what_names_the_needed_one(name: str) -> None:
    text = (Path(mnist_cnn.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 6))
    assert "from __future__ import annotations" not in text  # Python 3.6 refuses it


def test_an_old_python_is_told_which_one_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mnist_cnn", run_name="__main__")
    assert ended.value.code == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: mnist_cnn needs Python 3.11, 3.12 or 3.13, and this is Python ")
    assert hint.startswith("install it: python3.11 -m pip install ")
    with pytest.raises(ImportError, match=r"needs Python 3\.11"):
        mnist_cnn.make_job  # noqa: B018 - the lookup is what is tested


@pytest.mark.parametrize("is_checkout", [True, False])
def test_a_missing_installation_names_the_command_that_installs(tmp_path: Path, *, is_checkout: bool) -> None:
    root = tmp_path / "my checkout"
    data = shutil.ignore_patterns("*.gz", "__pycache__")
    shutil.copytree(Path(mnist_cnn.__file__).parent, root / "mnist_cnn", ignore=data)
    if is_checkout:
        (root / "pyproject.toml").touch()
    without_packages = [sys.executable, "-E", "-S", "-m", "mnist_cnn", "list"]
    ended = subprocess.run(without_packages, cwd=root, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    message, hint = ended.stderr.splitlines()
    assert message == "error: mnist_cnn needs Python 3.11, 3.12 or 3.13, and msgspec, which isn't installed"
    what = ["-e", str(root)] if is_checkout else ["mnist-cnn"]
    assert shlex.split(hint) == ["install", "it:", sys.executable, "-m", "pip", "install", *what]


def test_every_exported_name_can_be_imported() -> None:
    for name in mnist_cnn.__all__:
        assert getattr(mnist_cnn, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        mnist_cnn.nothing  # noqa: B018 - the lookup is what is tested
