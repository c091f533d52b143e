"""Every damaged file is read correctly or refused with an error, in time."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from helpers.copies import change_receipt, copy_run
from helpers.processes import REGISTER, run_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mnist_cnn
from faults.files import tiny_run
from faults.readers import KINDS
from faults.readers.given_files import draw_digit
from faults.readers.reader import answer
from faults.trial import limited, peak, run_trial
from mnist_cnn import backends
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import checks
from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError
from mnist_cnn.job import Job
from mnist_cnn.prediction.pictures import prepare
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.receipt import Receipt
from mnist_cnn.result import Result

if TYPE_CHECKING:
    from types import ModuleType

SECONDS = 60.0
"""The limit of a command that takes two seconds; without protection a pipe blocks it forever."""


@pytest.fixture
def home(tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with the runs `good` and `bad`, which are equal, and a picture."""
    for name in ("good", "bad"):
        copy_run(small_run, tmp_path / "runs" / name)
    draw_digit(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with small files."""
    return tiny_run(tmp_path_factory.mktemp("tiny") / "run")


def refused(code: int, *arguments: str) -> str:
    """Run a command that must fail with this exit code and an error, in time; return stderr."""
    with limited(SECONDS):
        ended, _, said = answer(*arguments)
    assert ended == code, said
    assert "Traceback" not in said
    assert said.startswith("error: ")
    return said


def put_in_place(what: str, path: Path) -> None:
    """Replace a file by something that isn't a regular file."""
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path.name, "device": "/dev/zero"}[what])


no_file = pytest.mark.parametrize("what", ["pipe", "folder", "loop", "device"])


@no_file
def test_a_receipt_that_is_no_file_does_not_hide_other_runs(home: Path, what: str) -> None:
    put_in_place(what, home / "runs" / "bad" / "run.json")
    listed = run_command("list", "--json", cwd=home, timeout=SECONDS)
    assert [row["run"] for row in listed.json()] == ["good"]
    refused(2, "status", "bad")


@no_file
@pytest.mark.parametrize(
    ("file", "code", "command"),
    [
        ("runs/bad/model.onnx", 3, ("predict", "bad", "digit.png")),
        ("digit.png", 3, ("predict", "good", "digit.png")),
        ("runs/bad/log.txt", 4, ("follow", "bad")),
        ("network.py", 2, ("plan", "model.file=network.py")),
    ],
)
def test_anything_but_a_file_in_place_of_a_file_is_refused(
    home: Path, what: str, file: str, code: int, command: tuple[str, ...]
) -> None:
    put_in_place(what, home / file)
    said = refused(code, *command)
    assert Path(file).name in said
    assert str(Path(file).parent) in said


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_workspace_that_is_no_file_has_no_substitute(tmp_path: Path, what: str) -> None:
    known = '{"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}'
    (tmp_path / "config.json").write_text(known)
    put_in_place(what, tmp_path / "chosen.json")
    with pytest.raises(ConfigurationError, match=r"cannot read .*chosen\.json: it is not a file"):
        checks.find_workspace(str(tmp_path / "chosen.json"))


@pytest.mark.parametrize(
    ("name", "verb"), [("run.json", "follow"), ("job.json", "resume"), ("result.json", "follow")]
)
def test_a_run_file_that_is_far_too_long_is_not_read(home: Path, name: str, verb: str) -> None:
    if name == "job.json":
        change_receipt(home / "runs" / "bad", status=Status.failed)
    path = home / "runs" / "bad" / name
    path.unlink()
    path.touch()
    os.truncate(path, 2**40)
    assert "the limit is" in refused(4, verb, "bad")


# Words


def test_a_damaged_file_does_not_fill_the_screen(home: Path) -> None:
    receipt = home / "runs" / "bad" / "run.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"status": "x" * 1_000_000}))
    said = refused(4, "status", "bad")
    assert "bad/run.json isn't a receipt" in said
    assert len(said) < 5_000


@pytest.mark.parametrize("code", [None, 0, 77])
def test_an_unknown_exit_code_in_a_receipt_becomes_a_documented_one(home: Path, code: int | None) -> None:
    change_receipt(home / "runs" / "bad", status=Status.failed, exit_code=code, error="no")
    assert "error: no" in refused(4, "follow", "bad")


@pytest.mark.parametrize("source", ["(" * 150 + ")" * 150, "-" * 200_000 + "1", "x" + ".a" * 200_000])
def test_a_network_that_is_nested_too_deep_is_refused(home: Path, source: str) -> None:
    (home / "network.py").write_text(source)
    assert "network.py" in refused(2, "plan", "model.file=network.py")


def test_a_workspace_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ConfigurationError, match="is not a workspace's"):
        checks.find_workspace(str(tmp_path))


# Models


def test_a_model_with_a_changed_weight_is_refused(home: Path) -> None:
    answer("register", "bad", *REGISTER)
    for folder in (home / "runs" / "bad", home / "models" / "m" / "1"):
        model = folder / "model.onnx"
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 64
        model.write_bytes(content)
        said = refused(3, "predict", str(folder), "digit.png")
        assert "model.onnx is not the file that the training wrote" in said
        model.rename(home / "other.onnx")
        load_predictor(home / "other.onnx")  # it is a sound model


def test_a_damaged_result_does_not_let_a_model_through(home: Path) -> None:
    (home / "runs" / "bad" / "result.json").write_text("{")
    assert "result.json is damaged" in refused(3, "predict", "bad", "digit.png")


@pytest.mark.parametrize("size", [2**20, 2**31, 2**62])
def test_a_model_for_enormous_images_is_refused(tmp_path: Path, small_run: Path, size: int) -> None:
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
    for name in re.finditer(b"BiasAdd", content):  # invalid UTF-8
        (tmp_path / "model.onnx").write_bytes(content[: name.start()] + b"\xff" + content[name.start() + 1 :])
        try:
            load_predictor(tmp_path)
        except DataError:
            refusals += 1
    assert refusals > 1
    assert capfd.readouterr() == ("", "")


def test_keras_loads_models_only_in_safe_mode() -> None:
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


def test_no_command_runs_code_from_a_keras_file(home: Path, keras: ModuleType) -> None:
    leave_a_mark = keras.layers.Lambda(lambda images: (Path("mark").write_text("x"), images)[1])
    model = keras.Sequential([keras.Input((28, 28, 1)), leave_a_mark])
    (home / "mark").unlink()  # building the network called it
    model.save(home / "runs" / "bad" / "model.keras")
    assert "model.keras is not the file" in refused(4, "register", "bad", *REGISTER)
    for verb in (["list"], ["status", "bad"], ["follow", "bad"], ["predict", "bad", "digit.png"]):
        assert answer(*verb)[0] == 0
    with pytest.raises(ValueError, match="Lambda"):
        keras.saving.load_model(home / "runs" / "bad" / "model.keras", safe_mode=True)
    assert not (home / "mark").exists()


# Pictures


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_a_large_picture_takes_limited_memory(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (9_400, 9_400))  # 88 million pixels; Pillow refuses 89 million
    colours: dict[str, Any] = {"RGBA": (255, 255, 255, 255), "LA": (255, 255), "I;16": 60_000}
    image.paste(colours[mode], (4_000, 900, 5_400, 8_000))
    image.save(tmp_path / "large.png", compress_level=1)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        before = pool.submit(peak).result()
        assert pool.submit(prepare, tmp_path / "large.png", 28, 28).result().image.any()
        assert pool.submit(peak).result() - before < 1_200


# Settings

ALIASES = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    "text",
    [ALIASES, "a: &a [*a]", "a: " + "[" * 5_000, "defaults: [chosen]", "epochs: 3\n#" + "x" * 100_000],
    ids=["aliases", "an alias of itself", "nested", "defaults of itself", "long"],
)
def test_settings_that_keep_hydra_busy_forever_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "chosen.yaml").write_text(text)
    refused(2, "plan", f"--config-dir={tmp_path}", "train=chosen")


@pytest.mark.parametrize("group", ["data", "model", "train", "backend"])
@pytest.mark.parametrize("value", [None, "3", "null", "[]"])
def test_an_option_that_sets_no_key_of_its_group_is_no_bug(
    tmp_path: Path, group: str, value: str | None
) -> None:
    (tmp_path / group).mkdir()
    setting = "seed: 3" if value is None else f"{group}: {value}"
    (tmp_path / group / "chosen.yaml").write_text(f"# @package _global_\n{setting}\n")
    asked = ("--cfg", "job", f"--config-dir={tmp_path}", f"{group}=chosen")
    if value is None:
        assert "seed: 3" in answer(*asked)[1]
    else:
        assert f"{group} is a group of keys" in refused(2, *asked)


# Every kind

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", [Receipt, Result, Job], ids=["run.json", "result.json", "job.json"])
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(drawn=st.data())
def test_any_value_anywhere_in_a_run_file_is_read_or_refused(
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
        assert 0 < len(error.message) < 2_500  # noqa: PT017 - a refusal is fine too
        assert "\n" not in error.message  # noqa: PT017 - as above
    else:
        assert kind.from_json(read.to_json()) == read


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_file_is_read_correctly_or_refused(kind: str, tiny: Path, tmp_path: Path) -> None:
    count = max(10, round(1_000 * KINDS[kind].share))
    outcome = run_trial(kind, range(count), 1, tiny, tmp_path / "kept")
    assert not outcome.faults, "\n".join(outcome.faults.values())
    assert outcome.inputs == count
