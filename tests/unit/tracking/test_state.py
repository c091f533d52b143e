"""What a run folder remembers of its trackers, and what is refused."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.cli import refusal
from helpers.tracked_runs import running

from mnist_cnn import compose, launch
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.tracking import TRACKERS, state, tracker_class

if TYPE_CHECKING:
    from helpers.cli import Ask

SERVER = "http://tracking.example:5000"


def test_without_track_a_run_has_no_tracker(tmp_path: Path) -> None:
    running(tmp_path)
    assert state.chosen(tmp_path) == []
    assert not (tmp_path / "tracking").exists()


def test_several_trackers_are_written_as_a_list(tmp_path: Path) -> None:
    running(tmp_path, "track=[mlflow,tensorboard]", f"track.mlflow.uri={SERVER}")
    assert state.chosen(tmp_path) == ["mlflow", "tensorboard"] == sorted(TRACKERS)
    assert state.read(tmp_path, "mlflow").settings == {"uri": SERVER, "experiment": "mnist-cnn"}


@pytest.mark.parametrize("value", ["mlfow", "[mlflow,wandb]", "null", "''"])
def test_another_tracker_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="must be one of mlflow, none, tensorboard"):
        compose.load([f"track={value}"])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_extra_is_named_before_anything_starts(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", missing)
    message, hint = refusal(ask(f"track={name}"))
    assert f"which track={name} needs, isn't installed" in message
    assert hint.endswith(f"[{name}]'")
    assert list(home.iterdir()) == []
    with pytest.raises(ConfigurationError, match="isn't installed"):
        tracker_class(name)


def test_the_extra_for_a_registry_is_named_before_anything_starts(
    ask: Ask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "distribution", missing)
    for command in ((), ("plan",)):
        message, hint = refusal(ask(*command, "register.name=x", "register.to=mlflow"))
        assert "which register.to=mlflow needs, isn't installed" in message
        assert hint.endswith("[mlflow]'")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        (f"track.mlflow.uri={SERVER}", "track=mlflow"),
        ("track.mlflow.experiment=digits", "track=mlflow"),
        ("register.to=mlflow", "register.name"),
    ],
)
def test_a_setting_without_effect_is_refused(ask: Ask, home: Path, given: str, needed: str) -> None:
    message, hint = refusal(ask(given))
    assert message == f"{given.partition('=')[0]} has no effect without {needed}"
    assert hint.startswith(f"add {needed}")
    assert list(home.iterdir()) == []


def test_a_file_may_have_settings_without_effect(tmp_path: Path) -> None:
    (tmp_path / "track").mkdir()
    (tmp_path / "track" / "ours.yaml").write_text(f"mlflow: {{uri: '{SERVER}'}}")
    assert not compose.load(["track=ours"], [str(tmp_path)]).track.enabled
    registered = compose.load(["register.name=m", "register.to=mlflow", f"track.mlflow.uri={SERVER}"])
    assert registered.track.mlflow.uri == SERVER


def test_a_tracked_run_takes_its_login_again(tmp_path: Path) -> None:
    running(tmp_path, "track=mlflow", f"track.mlflow.uri={SERVER}")
    login = "http://someone:letmein124@tracking.example:5000"
    config = launch.config_of_run(tmp_path, [f"track.mlflow.uri={login}"], ())
    before = state.read(tmp_path, "mlflow")
    state.choose(tmp_path, config.track)
    assert state.read(tmp_path, "mlflow") == before
    assert state.with_login(SERVER) == login


@pytest.mark.parametrize("variable", [False, True])
def test_a_login_stays_in_the_memory_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, variable: bool
) -> None:
    whole = "http://someone:letmein123@tracking.example:5000"
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
        running(tmp_path, "track=mlflow")
    else:
        running(tmp_path, "track=mlflow", f"track.mlflow.uri={whole}")
    assert state.read(tmp_path, "mlflow").settings["uri"] == SERVER
    assert state.with_login(SERVER) == whole
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"letmein123" in path.read_bytes()]


def test_a_login_in_the_settings_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "http://someone:letmein123@own.example"
    assert state.store(whole) == "http://own.example"
    for other in ("http://own.example", "http://other:forgotten@own.example"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        assert state.store(None) == "http://own.example"
        assert state.with_login("http://own.example") == whole


@pytest.mark.parametrize("password", ["letmein123", "let/mein123", "l@t/mein123"])
def test_no_command_shows_a_login(ask: Ask, password: str) -> None:
    tracked = ("track=mlflow", f"track.mlflow.uri='http://someone:{password}@tracking.example/runs'")
    for shown in (ask("plan", *tracked), ask("--cfg", "job", *tracked)):
        assert shown.code == 0
        assert "tracking.example" in shown.out
        assert "mein123" not in shown.out + shown.err


@pytest.mark.parametrize("login", ["me:letmein123@", "me:l@tmein123@", "letmein123@", "me:let/mein123@"])
def test_no_part_of_a_login_is_kept(login: str) -> None:
    assert state.store(f"postgresql://{login}db.example/runs") == "postgresql://db.example/runs"
    assert (
        state.store("mysql://db.example/runs?password=letmein123") == "mysql://db.example/runs?password=***"
    )


@pytest.mark.parametrize("value", ["sqlite:///mlflow.db", "mlruns"])
def test_a_local_store_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = value.removeprefix("sqlite:///")
    assert state.store(value) == value.replace(name, str(tmp_path / name))


def test_a_run_keeps_its_place_unless_it_is_given_another(tmp_path: Path) -> None:
    running(tmp_path, "track=mlflow", f"track.mlflow.uri={SERVER}", "track.mlflow.experiment=digits")
    before = state.read(tmp_path, "mlflow")
    for same in ([], [f"track.mlflow.uri={SERVER}"], ["track.mlflow.experiment=digits"]):
        state.choose(tmp_path, compose.load(["track=mlflow", *same]).track)
        assert state.read(tmp_path, "mlflow") == before
    state.choose(tmp_path, compose.load(["track=mlflow", "track.mlflow.uri=http://other.example"]).track)
    assert state.read(tmp_path, "mlflow").id != before.id


def test_a_damaged_state_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    running(tmp_path, "track=tensorboard")
    path = tmp_path / "tracking" / "tensorboard.json"
    path.write_text("{}")
    with pytest.raises(BackendError) as refused:
        state.read(tmp_path, "tensorboard")
    assert str(path) in refused.value.message
    assert "track=tensorboard" in refused.value.hint


def test_the_plan_says_where_a_run_is_tracked() -> None:
    plan = launch.plan_of(compose.load(["track=[mlflow,tensorboard]", f"track.mlflow.uri={SERVER}"]))
    assert dict(plan.lines)["tracked"] == f"mlflow, uri {SERVER}, experiment mnist-cnn; tensorboard"
    assert "tracked" not in dict(launch.plan_of(compose.load([])).lines)
