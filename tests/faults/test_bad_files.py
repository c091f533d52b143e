"""Promises of every file that is read: whatever lies in its place, the end is soon, and a worded error."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from helpers.processes import run_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mnist_cnn
from faults.files import tiny_run
from faults.readers import KINDS
from faults.readers.given_files import draw_digit
from faults.readers.reader import answer
from faults.trial import limited, run_trial
from mnist_cnn import backends
from mnist_cnn.backends.azure import checks
from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError
from mnist_cnn.job import Job
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.result import Result
from mnist_cnn.run_folder import Receipt

if TYPE_CHECKING:
    from types import ModuleType

SECONDS = 60.0
"""How long a command may take at most: it answers in less than two, and a pipe makes it wait for ever."""
LENIENT = "register.min_accuracy=0"


@pytest.fixture
def home(tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the run `runs/good`, its copy `runs/bad`, and a picture."""
    for name in ("good", "bad"):
        shutil.copytree(small_run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("checkpoints"))
    draw_digit(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose files are small."""
    return tiny_run(tmp_path_factory.mktemp("tiny") / "run")


def refused(code: int, *arguments: str) -> str:
    """Run a command that must be refused with this exit code, in words and in time; return the words."""
    with limited(SECONDS):
        ended, _, said = answer(*arguments)
    assert ended == code, said
    assert "Traceback" not in said
    assert said.startswith("error: ")
    return said


def put_in_place(what: str, path: Path) -> None:
    """Replace a file by something that is none."""
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")


no_file = pytest.mark.parametrize("what", ["pipe", "folder", "loop", "device"])


@no_file
def test_what_is_no_file_in_place_of_a_receipt_does_not_hide_other_runs(home: Path, what: str) -> None:
    put_in_place(what, home / "runs" / "bad" / "run.json")
    listed = run_command("list", "--json", cwd=home, timeout=SECONDS)  # a process that an alarm cannot wake
    assert [row["run"] for row in listed.json()] == ["good"]
    refused(2, "status", "bad")


@no_file
def test_what_is_no_file_in_place_of_a_model_is_worded(home: Path, what: str) -> None:
    put_in_place(what, home / "runs" / "bad" / "model.onnx")
    assert "runs/bad" in refused(3, "predict", "bad", "digit.png")


@no_file
def test_what_is_no_file_in_place_of_a_picture_is_worded(home: Path, what: str) -> None:
    put_in_place(what, home / "digit.png")
    assert "digit.png" in refused(3, "predict", "good", "digit.png")


@no_file
def test_what_is_no_file_in_place_of_a_log_is_worded(home: Path, what: str) -> None:
    put_in_place(what, home / "runs" / "bad" / "log.txt")
    assert "bad/log.txt" in refused(4, "follow", "bad")


@no_file
def test_what_is_no_file_in_place_of_a_network_is_worded(home: Path, what: str) -> None:
    put_in_place(what, home / "network.py")
    assert "network.py" in refused(2, "plan", "model.file=network.py")


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_is_no_workspace_and_none_above_it_is_taken_for_it(tmp_path: Path, what: str) -> None:
    known = '{"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}'
    (tmp_path / "config.json").write_text(known)
    put_in_place(what, tmp_path / "chosen.json")
    with pytest.raises(ConfigurationError, match=r"cannot read .*chosen\.json: it is not a file"):
        checks.find_workspace(str(tmp_path / "chosen.json"))


@pytest.mark.parametrize(("name", "code"), [("run.json", 4), ("job.json", 4), ("result.json", 4)])
def test_a_file_of_a_run_that_is_far_too_long_is_not_read(home: Path, name: str, code: int) -> None:
    path = home / "runs" / "bad" / name
    if name == "job.json":
        receipt = home / "runs" / "bad" / "run.json"
        receipt.write_text(receipt.read_text().replace("completed", "failed"))
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    verb = "resume" if name == "job.json" else "follow"
    assert "the limit is" in refused(code, verb, "bad")


# Words


def test_a_damaged_file_does_not_fill_the_screen(home: Path) -> None:
    receipt = home / "runs" / "bad" / "run.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"status": "x" * 1_000_000}))
    said = refused(4, "status", "bad")
    assert "bad/run.json is no receipt" in said
    assert len(said) < 5_000


@pytest.mark.parametrize("code", [None, 0, 77])
def test_a_failed_run_whose_receipt_has_no_known_exit_code_ends_in_a_documented_one(
    home: Path, code: int | None
) -> None:
    receipt = home / "runs" / "bad" / "run.json"
    changed = {"status": "failed", "exit_code": code, "error": "no"}
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | changed))
    assert "error: no" in refused(4, "follow", "bad")


@pytest.mark.parametrize("source", ["(" * 150 + ")" * 150, "-" * 200_000 + "1", "x" + ".a" * 200_000])
def test_a_network_that_is_nested_too_deep_is_no_python(home: Path, source: str) -> None:
    (home / "network.py").write_text(source)
    assert "network.py" in refused(2, "plan", "model.file=network.py")


def test_a_workspace_that_is_nested_too_deep_is_worded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ConfigurationError, match="is no workspace's"):
        checks.find_workspace(str(tmp_path))


# Models


def test_a_model_with_a_weight_changed_is_not_taken_for_the_runs(home: Path) -> None:
    answer("register", "bad", "register.name=m", LENIENT)
    for folder in (home / "runs" / "bad", home / "models" / "m" / "1"):
        model = folder / "model.onnx"
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 64
        model.write_bytes(content)
        said = refused(3, "predict", str(folder), "digit.png")
        assert "model.onnx is not the file that the training wrote" in said
        model.rename(home / "other.onnx")
        load_predictor(home / "other.onnx")  # which is a model for all that


def test_a_record_that_is_damaged_does_not_let_a_model_through(home: Path) -> None:
    (home / "runs" / "bad" / "result.json").write_text("{")
    assert "result.json is damaged" in refused(3, "predict", "bad", "digit.png")


@pytest.mark.parametrize("size", [2**20, 2**31, 2**62])
def test_a_model_of_enormous_images_is_refused(tmp_path: Path, small_run: Path, size: int) -> None:
    model = onnx.load(str(small_run / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(DataError):
        load_predictor(tmp_path)


def test_a_model_that_cannot_be_loaded_prints_nothing(
    tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (tiny / "model.onnx").read_bytes()
    refusals = 0
    for name in re.finditer(b"BiasAdd", content):  # no UTF-8, in one place of several
        (tmp_path / "model.onnx").write_bytes(content[: name.start()] + b"\xff" + content[name.start() + 1 :])
        try:
            load_predictor(tmp_path)
        except DataError:
            refusals += 1
    assert refusals > 1
    assert capfd.readouterr() == ("", "")


def test_no_model_is_loaded_by_keras_but_in_safe_mode() -> None:
    package = Path(mnist_cnn.__file__).parent
    sources = [*package.rglob("*.py"), *Path(backends.__file__).parent.rglob("*.py")]
    assert len(sources) > 40
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in ("enable_unsafe_deserialization", "deserialize_keras_object"), path
            if called in ("load_model", "model_from_json"):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("safe_mode") == "True", path


def test_no_verb_runs_the_code_that_a_keras_file_brings(home: Path, keras: ModuleType) -> None:
    leave_a_mark = keras.layers.Lambda(lambda images: (Path("mark").write_text("x"), images)[1])
    model = keras.Sequential([keras.Input((28, 28, 1)), leave_a_mark])
    (home / "mark").unlink()  # for building it calls it
    model.save(home / "runs" / "bad" / "model.keras")
    assert "model.keras is not the file" in refused(4, "register", "bad", "register.name=m", LENIENT)
    for verb in (["list"], ["status", "bad"], ["follow", "bad"], ["predict", "bad", "digit.png"]):
        assert answer(*verb)[0] == 0
    with pytest.raises(ValueError, match="Lambda"):
        keras.saving.load_model(home / "runs" / "bad" / "model.keras", safe_mode=True)
    assert not (home / "mark").exists()


# Pictures


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_a_large_picture_takes_a_stated_amount_of_memory(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (9_400, 9_400))  # 88 million pixels; from 89 on Pillow itself refuses
    colours: dict[str, Any] = {"RGBA": (255, 255, 255, 255), "LA": (255, 255), "I;16": 60_000}
    image.paste(colours[mode], (4_000, 900, 5_400, 8_000))
    image.save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-P", "-c", PREPARE, str(tmp_path / "large.png")]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert grown < 1_200


PREPARE = """
import sys
from pathlib import Path
import numpy, PIL.Image
from faults.trial import peak
from mnist_cnn.prediction.pictures import prepare
before = peak()
assert prepare(Path(sys.argv[1]), 28, 28).any()
print(peak() - before)
"""
"""By how many MiB the process grows."""


# Settings

ALIASES = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    "text",
    [ALIASES, "a: &a [*a]", "a: " + "[" * 5_000, "defaults: [chosen]", "epochs: 3\n#" + "x" * 100_000],
    ids=["aliases", "an alias of itself", "nested", "defaults of itself", "long"],
)
def test_settings_that_would_keep_hydra_busy_for_ever_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "chosen.yaml").write_text(text)
    refused(2, "plan", f"--config-dir={tmp_path}", "train=chosen")


@pytest.mark.parametrize("group", ["data", "model", "train", "backend"])
@pytest.mark.parametrize("value", [None, "3", "null", "[]"])
def test_settings_that_set_nothing_of_their_group_or_no_keys_are_no_bug(
    tmp_path: Path, group: str, value: str | None
) -> None:
    (tmp_path / group).mkdir()
    setting = "seed: 3" if value is None else f"{group}: {value}"
    (tmp_path / group / "chosen.yaml").write_text(f"# @package _global_\n{setting}\n")
    asked = ("--cfg", "job", f"--config-dir={tmp_path}", f"{group}=chosen")
    if value is None:
        assert "seed: 3" in answer(*asked)[1]
    else:
        assert f"{group} has keys of its own" in refused(2, *asked)


# Every kind

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", [Receipt, Result, Job], ids=["run.json", "result.json", "job.json"])
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(drawn=st.data())
def test_any_value_in_any_place_of_a_runs_file_is_read_or_refused_in_words(
    kind: type[Receipt | Result | Job], drawn: st.DataObject, small_run: Path
) -> None:
    name = {Receipt: "run.json", Result: "result.json", Job: "job.json"}[kind]
    place = whole = json.loads((small_run / name).read_text(encoding="utf-8"))
    key = drawn.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and place[key] and drawn.draw(st.booleans()):
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = drawn.draw(st.sampled_from(keys))
    place[key] = drawn.draw(ANY_JSON)
    try:
        read = kind.from_json(json.dumps(whole))
    except MnistCnnError as error:
        assert 0 < len(error.message) < 2_500  # noqa: PT017 - being refused is one of two right ends
        assert "\n" not in error.message  # noqa: PT017 - as above
    else:
        assert kind.from_json(read.to_json()) == read


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_file_is_read_rightly_or_refused_in_words(
    kind: str, tiny: Path, tmp_path: Path
) -> None:
    count = max(10, round(1_000 * KINDS[kind].share))
    outcome = run_trial(kind, range(count), 1, tiny, tmp_path / "kept")
    assert not outcome.faults, "\n".join(outcome.faults.values())
    assert outcome.inputs == count
