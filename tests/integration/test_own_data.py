"""Pictures in a folder per class: all that a training leaves, and all answers, name the classes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import refusal
from helpers.processes import Ended, run_command
from PIL import Image

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.serving.answers import answer

NAMES = {"circle": 0, "hook": 7, "stroke": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, and with a run that was trained on pictures of three of MNIST's classes."""
    home = tmp_path_factory.mktemp("own")
    mnist = datasets.load(DataConfig(train_limit=3000))
    for name, label in NAMES.items():
        (home / "set" / name).mkdir(parents=True)
        for index in np.flatnonzero(mnist.y_train == label)[:200]:
            Image.fromarray(mnist.x_train[index, ..., 0]).save(home / "set" / name / f"{index}.png")
    Image.fromarray(mnist.x_test[0, ..., 0]).resize((56, 56)).save(home / "seven.png")  # MNIST's first is a 7
    run(home, "data.dir=set", "model=compact", "train.optimizer=adam", "train.epochs=3", "run_dir=run")
    return home


def run(home: Path, *words: str) -> Ended:
    ended = run_command(*words, cwd=home, MNIST_CNN_CACHE=str(home / "cache"))
    assert ended.code == 0, ended.err
    return ended


def test_every_answer_names_the_class(home: Path) -> None:
    assert run(home, "predict", "run", "seven.png").out.startswith("seven.png: hook  (")
    (said,) = run(home, "predict", "run", "seven.png", "--json").json()
    assert (said["label"], said["name"]) == (1, "hook")
    table = run(home, "predict", "run", "seven.png", "--csv").out
    assert table.startswith("image,label,name,probability,pcircle,phook,pstroke,warnings\nseven.png,1,hook,")
    result = json.loads((home / "run" / "result.json").read_text())
    assert [scores["name"] for scores in result["classes"]] == [*NAMES]
    assert run(home, "status", "run").out.splitlines()[-1].split()[2].strip(",") in NAMES
    run(home, "report", "run", "--output", "page.html")
    assert all(f'<th scope="row">{name}</th>' in (home / "page.html").read_text() for name in NAMES)
    predictor = load_predictor(home / "run")
    assert answer(predictor, (home / "seven.png").read_bytes())["name"] == "hook"


def test_the_whole_picture_is_read_as_it_is(home: Path) -> None:
    predictor = load_predictor(home / "run")
    picture = next((home / "set" / "hook").iterdir())
    (image,) = [np.asarray(Image.open(picture))]
    assert predictor(picture).tolist() == predictor(image).tolist()
    blank = io.BytesIO()
    Image.new("L", (28, 28)).save(blank, "PNG")
    assert predictor.predict(io.BytesIO(blank.getvalue()))[0].name in NAMES


def test_a_page_that_would_find_ink_is_refused(home: Path) -> None:
    message, hint = refusal(run_command("export", "run", "--web", "page", cwd=home))
    assert "trained on whole pictures" in message
    assert "serve" in hint


def test_another_machine_without_the_data_says_how_to_convert_them(home: Path, tmp_path: Path) -> None:
    resumed = run_command("resume", "run", "train.epochs=4", cwd=home, MNIST_CNN_CACHE=str(tmp_path))
    assert resumed.code == 0, resumed.err  # the job's folder is here
    (home / "cache").rename(home / "away")
    ended = run_command("resume", "run", "train.epochs=4", cwd=home, MNIST_CNN_CACHE=str(tmp_path))
    assert ended.code == 3
    assert "the folder with the converted data does not exist" in ended.err
    assert "plan data.dir=FOLDER" in ended.err
