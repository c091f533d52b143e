"""Promises of the command line: what it prints, how it ends, and that a refusal leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib.resources
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from helpers.processes import SMALL, Ended, command, run_command
from omegaconf import OmegaConf
from PIL import Image

import mnist_cnn
from mnist_cnn import compose
from mnist_cnn.backends.local import LocalBackend, LocalConfig, LocalRun
from mnist_cnn.cli import commands
from mnist_cnn.cli import help as help_page
from mnist_cnn.cli.main import main, parse
from mnist_cnn.config import (
    DataConfig,
    ModelConfig,
    RegisterConfig,
    RunConfig,
    Section,
    TrainConfig,
    allowed,
    full_key,
    keys_of,
    written,
)

Ask = Callable[..., Ended]
SECTIONS: tuple[type[Section], ...] = (
    RunConfig,
    DataConfig,
    ModelConfig,
    TrainConfig,
    RegisterConfig,
    LocalConfig,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refuse_to_train(*_: object) -> None:
    message = "a training was started"
    raise AssertionError(message)


@pytest.fixture
def ask(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Run the command in this process, where no training is started; `home` is the current folder."""
    assert home.is_dir()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(LocalBackend, "submit", refuse_to_train)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run_folder(small_run: Path) -> Iterator[Path]:
    """The completed small run; what a test asks about it must leave every file as it was."""
    before = tree(small_run)
    yield small_run
    assert tree(small_run) == before


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def refusal(ended: Ended, code: int = 2) -> tuple[str, str]:
    """Check that it ended with one line of what and one of what to do; return them."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    what, what_to_do = ended.err.splitlines()
    assert what.startswith("error: ")
    assert what_to_do
    return what.removeprefix("error: "), what_to_do


NETWORK_THAT_FAILS_WITH_9_UNITS = """
import keras

def build(config, input_shape, num_classes):
    units = config.dense_units
    first = keras.initializers.Constant(float("nan")) if units == 9 else "glorot_uniform"
    return keras.Sequential([
        keras.Input(input_shape),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation="relu"),
        keras.layers.Dense(num_classes, activation="softmax", kernel_initializer=first),
    ])
"""

REFUSED = [
    # arguments, what is said, what to do
    ("train.epoch=3", "unknown key train.epoch", "did you mean train.epochs?"),
    ("trian.epochs=3", "unknown key trian.epochs", "did you mean train.epochs?"),
    ("nothing=3", "unknown key nothing", "--help lists every key"),
    ("train.epochs=0", "train.epochs=0: allowed is a whole number from 1 to 100000", "passes over"),
    ("train.epochs=1.5", "train.epochs=1.5: allowed is a whole number from 1 to 100000", "passes over"),
    ("train.epochs=many", "train.epochs=many: allowed is a whole number from 1 to 100000", "passes over"),
    ("train.epochs=true", "train.epochs=true: allowed is a whole number from 1 to 100000", "passes over"),
    ("train.epochs=null", "train.epochs=null: allowed is a whole number from 1 to 100000", "passes over"),
    ("train.learning_rate=nan", "train.learning_rate=nan: allowed is a number above 0 to 1000", "rate"),
    ("train.learning_rate=-1", "train.learning_rate=-1.0: allowed is a number above 0 to 1000", "rate"),
    ("train.optimizer=adm", "one of adadelta, adam, adamw, rmsprop, sgd", "optimizer"),
    ("model.filters=[0]", "model.filters=[0]: allowed is a list of whole numbers from 1 to 4096", "filters"),
    ("model.filters=[]", "model.filters=[]: 1 to 16 convolutions are allowed", "model.filters=[32,64]"),
    ("model.kernel_size=20", "model.kernel_size=20: convolution 2 has 9 pixels left", "smaller kernel"),
    ("model.file=nowhere.py", "model.file=nowhere.py cannot be read: No such file", "Python file"),
    ("data=mnits", "data=mnits: there are fashion_mnist, kmnist, mnist", "did you mean mnist?"),
    ("data.name=other", "data.name=other: allowed is one of mnist", "data.dir=FOLDER"),
    ("data.train_limit=60001", "data.train_limit=60001: allowed is a whole number from 1 to 60000", "null"),
    ("data.validation=60000", "data.validation=60000: allowed is a whole number from 0 to 59999", "train"),
    ("backend=lokal", "backend=lokal: there are azure, local", "did you mean local?"),
    ("backend=nowhere.py:Own", "nowhere.py:Own cannot be imported", "backend=FILE.py:Class"),
    ("backend.device=tpu", "backend.device=tpu: allowed is one of auto, cpu, gpu", "gpu insists on it"),
    ("register.name=../up", "register.name=../up: allowed are 1 to 255 letters", "register.name=mnist-cnn"),
    ("seed=1,2", "seed=1,2: more than one value", "add --multirun"),
    ("~seed", "~seed: a key cannot be removed", "set it to another value"),
    ("data.dir=[a", "cannot read the override data.dir=[a", "quote"),
    ("data.dir=${nope}", "data.dir: Interpolation key 'nope' not found", "--help"),
    ("plna", "train does not take the word plna", "did you mean plan?"),
    ("list extra", "list does not take the word extra", ""),
    ("--jsn", "there is no flag --jsn", "did you mean --json?"),
    ("--config-dir nowhere", "--config-dir nowhere: there is no such folder", "conf/"),
    ("--config-dir", "--config-dir needs a folder", "conf/"),
    ("plan --multirun seed=1,2", "plan does not take --multirun", "only train does"),
    ("--multirun seed=1,x", "seed=x: allowed is a whole number", "seed: decides"),
    ("--multirun seed=1,2 train.epochs=0", "train.epochs=0: allowed", "passes over"),
    ("--multirun seed=1,2 run_dir=one", "run_dir=one is one folder for 2 runs", "runs_dir=FOLDER"),
    ("--multirun seed=glob(*)", "seed=glob(*): this kind of sweep is not supported", "commas"),
    (
        "--multirun train=tutorial,fast",
        "train=fast: there are accurate, balanced, quick, tutorial",
        "train.KEY=VALUE",
    ),
    ("--cfg job train.epoch=3", "unknown key train.epoch", "did you mean train.epochs?"),
    ("status", "status needs one RUN", "status latest"),
    ("status one two", "status needs one RUN, not one two", "status latest"),
    ("status nothing", "there is no run nothing under runs", "`list` shows the runs"),
    ("status latest", "there is no run under runs", "start one"),
    ("follow latest", "there is no run under runs", "start one"),
    ("cancel latest", "there is no run under runs", "start one"),
    ("resume latest", "there is no run under runs", "start one"),
    ("register latest", "there is no run under runs", "start one"),
    ("predict", "predict needs a RUN and at least one IMAGE", "predict latest digit.png"),
    ("predict latest", "predict needs a RUN and at least one IMAGE", "predict latest digit.png"),
    ("predict latest digit.png", "there is no run under runs", "start one"),
]


@pytest.mark.parametrize(("arguments", "said", "advised"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_refusal_is_one_line_of_what_and_one_of_what_to_do_and_leaves_nothing(
    ask: Ask, home: Path, arguments: str, said: str, advised: str
) -> None:
    what, what_to_do = refusal(ask(*arguments.split()))
    assert said in what
    assert advised in what_to_do
    assert list(home.iterdir()) == []


def test_no_refusal_waits_for_tensorflow(home: Path) -> None:
    cases = [arguments.split() for arguments, _, _ in REFUSED]
    program = (
        "import json, sys\nfrom mnist_cnn.cli.main import main\n"
        f"codes = [main(arguments) for arguments in {[*cases, ['plan'], ['list'], ['--help']]!r}]\n"
        "heavy = {'tensorflow', 'keras', 'onnxruntime', 'matplotlib', 'azureml'} & set(sys.modules)\n"
        "print('\\n' + json.dumps([codes, sorted(heavy)]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=home, capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [[2] * len(cases) + [0, 0, 0], []]
    assert list(home.iterdir()) == []


def test_a_refused_command_as_a_process_exits_2_and_leaves_nothing(home: Path) -> None:
    what, _ = refusal(run_command("train.epochs=0", cwd=home))
    assert what.startswith("train.epochs=0: ")
    assert list(home.iterdir()) == []


def test_a_refusal_as_json_has_what_and_what_to_do(ask: Ask) -> None:
    ended = ask("--json", "train.epoch=3")
    assert ended.code == 2
    said = {"error": "unknown key train.epoch", "hint": "did you mean train.epochs?", "exit_code": 2}
    assert ended.json() == said


def test_data_that_are_not_there_exit_3_and_leave_nothing(ask: Ask, home: Path) -> None:
    for arguments in (["data.dir=nowhere"], ["--multirun", "data.dir=nowhere", "seed=1,2"]):
        what, _ = refusal(ask(*arguments), 3)
        assert what.startswith("data.dir=nowhere: ")
        assert list(home.iterdir()) == []


def test_a_runs_dir_that_cannot_be_written_exits_4(ask: Ask, home: Path) -> None:
    (home / "file").write_text("in the way", encoding="utf-8")
    what, what_to_do = refusal(ask("runs_dir=file/runs"), 4)
    assert what.startswith("cannot write the run folder file/runs/")
    assert "runs_dir=FOLDER" in what_to_do
    assert [path.name for path in home.iterdir()] == ["file"]


def test_a_run_dir_that_is_a_run_is_refused_and_names_resume(ask: Ask, run_folder: Path) -> None:
    what, what_to_do = refusal(ask(f"run_dir={run_folder}"))
    assert what == f"run_dir={run_folder} already holds a run"
    assert f"resume {run_folder}" in what_to_do


def test_a_run_dir_that_holds_something_else_is_refused_and_kept(ask: Ask, home: Path) -> None:
    (home / "full").mkdir()
    (home / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    assert refusal(ask("run_dir=full"))[0] == "run_dir=full is not empty and is not a run"
    assert refusal(ask("run_dir=full/notes.txt"))[0] == "run_dir=full/notes.txt is a file"
    assert [path.name for path in home.rglob("*")] == ["full", "notes.txt"]


def test_a_bug_exits_1_and_an_interrupt_130(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> Callable[[commands.Command], int]:
        def verb(_: commands.Command) -> int:
            raise error

        return verb

    monkeypatch.setitem(commands.COMMANDS, "list", raising(RuntimeError("two\nlines")))
    ended = ask("list")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-2] == "error: a bug: RuntimeError: two lines"
    monkeypatch.setitem(commands.COMMANDS, "list", raising(KeyboardInterrupt()))
    ended = ask("list")
    assert ended.code == 130
    assert ended.err.splitlines()[0] == "interrupted"


def test_what_was_interrupted_is_said_as_it_is(
    ask: Ask, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBackend, "submit", interrupted)
    assert ask().err == "interrupted\nnothing was started\n"
    with monkeypatch.context() as patch:  # as where a run goes on without its command
        patch.setattr(LocalBackend, "ends_with_its_command", False)
        assert ask().err == "interrupted\nsee whether it started: python -m mnist_cnn list\n"
        assert "perhaps started" in ask("--multirun", "seed=1,2").out
    goes_on = f"interrupted; {run_folder} may go on\nend it: python -m mnist_cnn cancel {run_folder}\n"
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "status", interrupted)
        assert ask("cancel", str(run_folder)).err == goes_on
    monkeypatch.setattr(commands, "_say_completed", interrupted)  # when the result is there
    assert ask("follow", str(run_folder)).err == "interrupted\n"


def test_debugging_shows_the_traceback_of_a_refusal(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_CNN_DEBUG", "1")
    ended = ask("train.epochs=0")
    assert ended.code == 2
    assert "Traceback" in ended.err


@pytest.mark.parametrize("section", SECTIONS, ids=[section.GROUP or "run" for section in SECTIONS])
def test_help_names_every_key_with_its_meaning_and_default(ask: Ask, section: type[Section]) -> None:
    text = ask("--help").out
    defaults = section()
    for name, spec in keys_of(section):
        if spec.group:
            continue
        unit = f", in {spec.unit}" if spec.unit else ""
        entry = (
            f"\n  {full_key(section, name)}={written(getattr(defaults, name))}\n"
            f"      {spec.meaning}; {allowed(section, name)}{unit}\n"
        )
        assert entry in text


def test_help_names_every_group_option_verb_flag_and_exit_code(ask: Ask) -> None:
    text = ask("-h").out
    assert text == ask("plan", "--help").out
    for group in ("data", "model", "train"):
        assert f"  {group}=NAME, one of: {', '.join(compose.options(group))}\n" in text
    for verb in commands.COMMANDS:
        assert re.search(rf"^  {verb} ", help_page.VERB_LINES, re.MULTILINE)
    assert all(part in text for part in (help_page.VERB_LINES, help_page.FLAGS, help_page.EXIT_CODES))


def test_the_examples_of_help_are_accepted(ask: Ask) -> None:
    examples = ask("--help").out.partition("Examples\n")[2].splitlines()
    assert len(examples) == 4
    for example in examples:
        words = parse(example.split("mnist_cnn ")[1].split())
        if not words.is_multirun and words.verb == "train":
            assert ask("plan", *words.overrides).code == 0


def test_the_version_is_the_packages(ask: Ask) -> None:
    ended = ask("--version")
    assert (ended.code, ended.out) == (0, f"mnist_cnn {mnist_cnn.__version__}\n")


def test_cfg_job_shows_the_composed_configuration_and_writes_nothing(home: Path) -> None:
    ended = run_command("--cfg", "job", "train.epochs=3", cwd=home)
    assert ended.code == 0, ended.err
    shown = OmegaConf.create(ended.out)
    assert shown.train.epochs == 3
    assert shown.model.filters == [32, 64]
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_goes_away_is_no_error(home: Path, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        command("--help"),
        cwd=home,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_nobody_reads_is_no_success_of_a_verb_that_does_something(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_: commands.Command) -> int:
        raise BrokenPipeError

    monkeypatch.setitem(commands.COMMANDS, "register", cut_off)
    assert refusal(ask("register"), 4)[0] == "register was not brought to its end: nobody reads it"


COSTLY_BACKEND = """
from mnist_cnn.backends.local import LocalBackend, LocalRun
LocalRun.cost_report = lambda self: iter(["it has nodes, which cost"])
"""


@pytest.mark.parametrize(("words", "code"), [("backend.device=gpu run_dir=run", 4), ("cancel done", 0)])
def test_what_a_place_costs_changes_no_exit_code_where_nobody_reads_it(
    tmp_path: Path, small_run: Path, words: str, code: int
) -> None:
    (tmp_path / "own.py").write_text(COSTLY_BACKEND, encoding="utf-8")
    (tmp_path / "done").mkdir()
    receipt = json.loads((small_run / "run.json").read_text(encoding="utf-8"))
    receipt["backend"] = f"{tmp_path}/own.py:LocalBackend"
    (tmp_path / "done" / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    backend = () if "done" in words else ("backend=own.py:LocalBackend", *SMALL)
    ended = subprocess.run(
        command(*words.split(), *backend),
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"},
        stdout=writer,
        stderr=writer,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert ended.returncode == code


def test_plan_says_what_would_happen_and_writes_nothing(ask: Ask, home: Path) -> None:
    plain = ask("plan", "seed=3", "register.name=digits", "data.validation=100")
    said = ask("plan", "--json", "seed=3", "register.name=digits", "data.validation=100").json()
    assert plain.code == 0
    assert [line.split()[0] for line in plain.out.splitlines()] == list(said)
    assert re.fullmatch(r"[0-9a-f]{64}", said["job"])
    assert "60000 training images, 100 of them for validation, 10000 test images" in said["data"]
    assert "12 epochs in batches of 128, adadelta, learning rate 1" in said["train"]
    assert said["seed"] == "3"
    assert said["folder"] == "a new one under runs"
    assert "digits" in said["registered"]
    assert list(home.iterdir()) == []


def test_plan_of_data_that_are_not_here_downloads_nothing(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    ended = ask("plan", "data=fashion_mnist")
    assert ended.code == 0
    assert "downloaded when a run starts" in ended.out
    assert list(home.iterdir()) == []


def test_a_list_of_no_runs_says_how_to_start_one(ask: Ask) -> None:
    assert ask("list").out.splitlines()[0] == "no runs under runs"
    assert "backend=local" in ask("list").out
    assert ask("list", "--json").json() == []


def test_list_shows_each_run_whole_and_newest_first(ask: Ask, home: Path, run_folder: Path) -> None:
    names = ["a" * 60, "b" * 60]
    for number, name in enumerate(names):
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        receipt = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
        receipt["created"] = f"2026-01-0{number + 1}T00:00:00+00:00"
        (folder / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    (home / "runs" / "no-run").mkdir()
    ended = ask("list")
    lines = [line.split() for line in ended.out.splitlines() if "completed" in line]
    assert [line[0] for line in lines] == names[::-1]
    rows = ask("list", "--json").json()
    assert [row["run"] for row in rows] == names[::-1]
    assert {"run", "status", "accuracy", "backend", "created"} <= set(rows[0])


def test_the_beginning_of_a_runs_name_is_enough_where_it_is_one_runs(
    ask: Ask, home: Path, run_folder: Path
) -> None:
    for name in ("2026-01-aa", "2026-01-ab", "2026-02-cc"):
        (home / "runs" / name).mkdir(parents=True)
        shutil.copy(run_folder / "run.json", home / "runs" / name)
    assert ask("status", "2026-02").out.startswith("2026-02-cc is completed")
    assert ask("status", "2026-01-ab").out.startswith("2026-01-ab is completed")
    what, what_to_do = refusal(ask("status", "2026-01"))
    assert what == "2026-01 matches 2 runs"
    assert what_to_do == "choose one of 2026-01-aa, 2026-01-ab"
    assert refusal(ask("status", "2026-01-bb"))[1].startswith("did you mean 2026-01-")


def test_status_says_how_a_run_ended_by_name_path_and_latest(ask: Ask, run_folder: Path) -> None:
    accuracy = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))["accuracy"]
    runs_dir = f"runs_dir={run_folder.parent}"
    for arguments in ([str(run_folder)], ["run", runs_dir], ["latest", runs_dir]):
        lines = ask("status", *arguments).out.splitlines()
        assert lines[0].startswith("run is completed (local, ")
        assert lines[1] == f"test accuracy {accuracy:.2%}"
        said = ask("status", "--json", *arguments).json()
        assert said["status"] == "completed"
        assert said["accuracy"] == accuracy
        assert said["folder"] == str(run_folder)


def test_following_a_run_that_has_ended_tells_it_again(ask: Ask, run_folder: Path) -> None:
    ended = ask("follow", str(run_folder))
    assert ended.code == 0, ended.err
    assert "epoch 2/2" in ended.out
    assert "completed: test accuracy" in ended.out
    assert f"predict {run_folder} IMAGE.png" in ended.out
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    assert ask("follow", "--json", str(run_folder)).json()["result"] == result


def test_a_run_that_has_ended_is_neither_cancelled_nor_resumed(ask: Ask, run_folder: Path) -> None:
    assert "had ended already: completed" in ask("cancel", str(run_folder)).out
    assert refusal(ask("resume", str(run_folder)))[0] == f"{run_folder} is completed"


def test_register_gives_one_version_to_one_run_and_says_so(ask: Ask, home: Path, run_folder: Path) -> None:
    arguments = [str(run_folder), "register.name=digits", "register.dir=shelf", "register.min_accuracy=0"]
    place = Path("shelf") / "digits" / "1"
    assert ask("register", *arguments).out == f"registered: digits version 1, {place}\n"
    assert ask("register", *arguments).out == f"was registered before: digits version 1, {place}\n"
    said = {"name": "digits", "version": 1, "location": str(place), "is_new": False}
    assert ask("register", "--json", *arguments).json() == said
    assert (home / place / "model.keras").read_bytes() == (run_folder / "model.keras").read_bytes()


def test_register_needs_a_name(ask: Ask, run_folder: Path) -> None:
    what, what_to_do = refusal(ask("register", str(run_folder)))
    assert what == "register needs a name"
    assert "register.name=mnist-cnn" in what_to_do


def test_a_model_below_the_least_accuracy_is_not_registered(ask: Ask, home: Path, run_folder: Path) -> None:
    what, what_to_do = refusal(
        ask("register", str(run_folder), "register.name=digits", "register.min_accuracy=1"), 4
    )
    assert "is below register.min_accuracy=1" in what
    assert "register.min_accuracy" in what_to_do
    assert list(home.iterdir()) == []


def test_predict_prints_a_digit_and_its_probability_for_each_picture(
    ask: Ask, home: Path, run_folder: Path
) -> None:
    packed = importlib.resources.files("mnist_cnn") / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"
    pixels = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint8, count=784, offset=16)
    for name in ("seven.png", "again.png"):
        Image.fromarray(pixels.reshape(28, 28)).save(home / name)
    ended = ask("predict", str(run_folder), "seven.png", "again.png")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seven.png", "again.png"]
    assert all(re.fullmatch(r".*: \d  \(\d+\.\d%\)", line) for line in lines)
    said = ask("predict", "--json", str(run_folder), "seven.png").json()
    assert said[0]["image"] == "seven.png"
    assert f"seven.png: {said[0]['label']}  ({said[0]['probability']:.1%})" == lines[0]


def test_a_picture_that_is_none_exits_3_by_its_name(ask: Ask, home: Path, run_folder: Path) -> None:
    (home / "notes.png").write_text("no picture", encoding="utf-8")
    for name in ("notes.png", "nowhere.png"):
        assert name in refusal(ask("predict", str(run_folder), name), 3)[0]


def test_a_sweep_ends_with_a_table_best_first_and_the_first_failures_exit_code(home: Path) -> None:
    (home / "network.py").write_text(NETWORK_THAT_FAILS_WITH_9_UNITS, encoding="utf-8")
    sweep = ("--multirun", "model.file=network.py", "model.dense_units=1,9,64", "train.epochs=1")
    ended = run_command(*SMALL, *sweep, cwd=home, COLUMNS="80")
    assert ended.code == 5, ended.out + ended.err
    heads, _, *rows = ended.out.rstrip().splitlines()[-5:]
    assert heads.split()[:2] == ["settings", "accuracy"]
    units = [row.split()[0] for row in rows]
    assert units == ["model.dense_units=64", "model.dense_units=1", "model.dense_units=9"]
    accuracies = [float(row.split()[1].rstrip("%")) for row in rows[:2]]
    assert accuracies == sorted(accuracies, reverse=True)
    folders = [home / row.split()[-1] for row in rows]
    statuses = [json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] for folder in folders]
    assert statuses == ["completed", "completed", "failed"]
    assert [(folder / "result.json").exists() for folder in folders] == [True, True, False]
    assert len(list((home / "runs").iterdir())) == 3


BACKEND_WITH_A_BUG = """
from mnist_cnn.backends.local import LocalBackend, LocalRun


class Run(LocalRun):
    def logs(self, *, follow=False):
        return iter(())

    def wait(self):
        raise {error}


class Own(LocalBackend):
    parallel_runs = {places}

    def submit(self, job, folder):
        return Run(folder)
"""
"""No trainer is started: a trial ends in what nobody foresaw."""


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("RuntimeError('password=planted')", 1, "a bug: RuntimeError: password=***"),
        ("OSError(5, 'Input/output error', 'run.json')", 4, "run.json: Input/output error"),
    ],
)
def test_whatever_ends_a_trial_ends_no_other_and_is_no_success(
    home: Path, places: int, error: str, code: int, said: str
) -> None:
    (home / "own.py").write_text(BACKEND_WITH_A_BUG.format(error=error, places=places), encoding="utf-8")
    ended = run_command("--multirun", "backend=own.py:Own", "seed=1,2", "--json", cwd=home)
    assert ended.code == code, ended.err
    assert [trial["outcome"] for trial in ended.json()] == [said, said]
    assert ("Traceback" in ended.err) == (code == 1)
    assert "planted" not in ended.out + ended.err


def test_a_command_is_frozen_once_read() -> None:
    read = parse(["status", "a=b/c", "latest", "--json", "-m", "--config-dir=x", "-cd", "y", "./k=v"])
    assert read == commands.Command("status", ("latest", "./k=v"), ("a=b/c",), ("x", "y"), True, True)  # noqa: FBT003
    with contextlib.suppress(dataclasses.FrozenInstanceError):
        read.verb = "list"  # type: ignore[misc]
    assert read.verb == "status"


@pytest.mark.parametrize(
    ("words", "redirection", "code"),
    [
        ("plan", ">&-", 0),
        ("plan", ">/dev/full", 4),
        ("plan --json", ">/dev/full", 4),
        ("status nowhere", "2>/dev/full", 2),
    ],
)
def test_output_that_cannot_be_written_is_no_bug(
    tmp_path: Path, words: str, redirection: str, code: int
) -> None:
    line = f"{shlex.join(command(*words.split()))} {redirection}"
    ended = subprocess.run(
        ["/bin/sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_an_empty_run_is_not_the_only_run(small_run: Path, tmp_path: Path) -> None:
    ended = run_command("status", "", f"runs_dir={small_run.parent}", cwd=tmp_path)
    assert ended.code == 2
    assert "status needs one RUN" in ended.err
