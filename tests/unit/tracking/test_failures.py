"""A tracker that is away, slow, refuses or breaks is named once, and holds up no command."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from helpers.mlflow_server import free_port, refusing_server, silent_server
from helpers.processes import wait_until
from helpers.tracked_runs import EPOCHS, complete, running

from mnist_cnn.tracking import recording, state
from mnist_cnn.tracking.recording import Recording, recorded


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what earlier tests have reported; let MLflow give up sooner."""
    recording._reported.clear()  # noqa: SLF001 - a process reports a tracker once
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.2)


@contextmanager
def no_server() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (no_server(), "Connection refused"),
        (silent_server(), "no answer within 1 s"),
        (refusing_server(403, "not yours"), "403"),
        (refusing_server(500, "disk full"), "500"),
    ],
    ids=["away", "silent", "refuses", "full"],
)
def test_a_server_that_is_no_use_is_named_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], server: AbstractContextManager[str], reason: str
) -> None:
    with server as url:
        run = running(tmp_path, "track=mlflow", f"track.mlflow.uri={url.replace('//', '//me:letmein123@')}")
        with recorded(run):
            time.sleep(2.5)  # for several attempts
            complete(tmp_path)
            before = time.monotonic()
        assert time.monotonic() - before < 15  # not half a minute
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("warning: track=mlflow: ")
    assert reason in line
    assert line.endswith(f"the run is not affected; record it later: python -m mnist_cnn follow {tmp_path}")
    assert "letmein123" not in out + err
    assert state.read(tmp_path, "mlflow").status is None  # the next follower tries again


def test_a_slow_tracker_delays_neither_the_other_one_nor_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with silent_server() as url:
        run = running(tmp_path, "track=[mlflow,tensorboard]", f"track.mlflow.uri={url}")
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupt(run)
        assert time.monotonic() - started < 15  # less than one request
    assert state.read(tmp_path, "tensorboard").epochs == len(EPOCHS)


def interrupt(run: object) -> None:
    with recorded(run):  # type: ignore[arg-type] # a stand-in
        complete(run.folder)  # type: ignore[attr-defined]
        raise KeyboardInterrupt


def test_of_two_followers_only_one_writes(tmp_path: Path) -> None:
    run = running(tmp_path, "track=tensorboard")
    with recorded(run):
        wait_until(lambda: state.read(tmp_path, "tensorboard").epochs == 1)
        before = list((tmp_path / "tensorboard").iterdir())
        with recorded(run):
            time.sleep(1)
        assert list((tmp_path / "tensorboard").iterdir()) == before  # each writer begins a file of its own
        complete(tmp_path)
    assert state.read(tmp_path, "tensorboard").status == "completed"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("track=")]


def test_a_follower_takes_over_when_the_other_one_stops(tmp_path: Path) -> None:
    run = running(tmp_path, "track=tensorboard")
    first, second = Recording(tmp_path, "tensorboard"), Recording(tmp_path, "tensorboard")
    first.start()
    wait_until(lambda: state.read(tmp_path, "tensorboard").epochs == 1)
    second.start()
    first.stop(None)
    first.wait(is_brief=False)
    complete(tmp_path)
    second.stop(run.end)
    second.wait(is_brief=False)
    assert state.read(tmp_path, "tensorboard").status == "completed"


def test_a_damaged_state_is_named_and_the_run_continues(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = running(tmp_path, "track=tensorboard")
    (tmp_path / "tracking" / "tensorboard.json").write_text("[]")
    with recorded(run):
        complete(tmp_path)
    assert "tensorboard.json" in capfd.readouterr().err
