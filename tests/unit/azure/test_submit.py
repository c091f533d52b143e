"""What a submission records and sends. The service and the SDK's objects are stand-ins."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sdk_fakes import FakeRun, config_in, config_of, provide

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import plan
from mnist_cnn.backends.azure.v1 import prepare
from mnist_cnn.backends.azure.v1.service import WorkspaceService
from mnist_cnn.backends.remote import node, submission
from mnist_cnn.backends.remote.failures import NodesRefused
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted

Submit = Callable[..., None]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Return a function that submits a job in the folder `run`."""
    job = launch.make_job("train.epochs=1")
    (tmp_path / "run").mkdir()

    def submit_job(*overrides: str, force: bool = False) -> None:
        service = WorkspaceService(config_in(tmp_path, *overrides))
        submission.submit(job, service, tmp_path / "run", force=force)

    return submit_job


def refusing(reason: str) -> Callable[..., None]:
    def send(*_: object) -> None:
        raise NodesRefused(reason, "delete it")

    return send


def test_a_refused_size_is_not_tried_again(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_send", refusing("the VM size is not supported"))
    with pytest.raises(BackendError) as refused:
        submit("backend.vm_size=STANDARD_X99")
    resize = (
        f"start the run with another size: python -m mnist_cnn resume {tmp_path / 'run'} backend.vm_size=SIZE"
    )
    assert refused.value.hint == f"delete it; then {resize}"
    before = run_folder.read_receipt(tmp_path / "run")
    assert before.status is Status.failed

    sent: list[object] = []
    monkeypatch.setattr(submission, "_send", lambda *arguments: sent.append(arguments))
    with pytest.raises(ConfigurationError, match="could not create cluster traincluster") as raised:
        submit("backend.vm_size=STANDARD_X99")
    assert resize in raised.value.hint
    assert "force=true" in raised.value.hint
    assert run_folder.read_receipt(tmp_path / "run") == before
    assert not sent
    submit("backend.vm_size=STANDARD_D2_V2")
    assert sent


def test_force_tries_a_refused_size_again(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the VM size is not supported"
    monkeypatch.setattr(submission, "_send", refusing(reason))
    for force in (False, True):
        with pytest.raises(BackendError, match=reason):
            submit(force=force)


def test_a_placeholder_is_not_a_vm_size() -> None:
    with pytest.raises(ConfigurationError, match="STANDARD_"):
        config_of("backend.vm_size=SIZE")


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything before the submission succeed without a request."""
    monkeypatch.setattr(WorkspaceService, "costs", lambda *_: iter(["the costs"]))
    monkeypatch.setattr(WorkspaceService, "prepare", lambda *_: nullcontext())
    monkeypatch.setattr(WorkspaceService, "on_started", lambda *_: None)


@pytest.mark.usefixtures("hears_interrupts", "prepared")
def test_ctrl_c_during_the_submission_records_the_started_run(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is acknowledged at once, because the service may take minutes to answer."""
    said = []

    def start(*_: object) -> str:
        signal.raise_signal(signal.SIGINT)
        said.append(capfd.readouterr().err)
        return FakeRun().get_portal_url()

    monkeypatch.setattr(WorkspaceService, "start", start)
    with pytest.raises(Interrupted, match="has started and is still running"):
        submit()
    receipt = run_folder.read_receipt(tmp_path / "run")
    assert receipt.status is Status.queued
    assert receipt.url == FakeRun().get_portal_url()
    assert "interrupted; the run may have started" in said[0]
    assert "the costs" not in capfd.readouterr().err  # the run continues, and a request could take minutes


@pytest.mark.usefixtures("prepared")
def test_ctrl_c_before_the_submission_is_acknowledged_before_the_costs(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkspaceService, "prepare", interrupt)
    with pytest.raises(Interrupted, match="before"):
        submit()
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "interrupted; checking what the cluster costs (Ctrl-C skips this)",
        "the costs",
    ]
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


def test_the_sdk_gets_arguments_mounts_and_the_limit_in_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    run_config = SimpleNamespace()

    def estimator(**values: Any) -> Any:
        given.update(values)
        return SimpleNamespace(run_config=run_config)

    environment = SimpleNamespace(docker=SimpleNamespace(), python=SimpleNamespace())
    provide(monkeypatch, "azureml.core", Environment=lambda _name: environment, ScriptRunConfig=lambda **v: v)
    conda = SimpleNamespace(create=lambda **values: values)
    provide(monkeypatch, "azureml.core.runconfig", DockerConfiguration=lambda **values: values)
    provide(monkeypatch, "azureml.core.conda_dependencies", CondaDependencies=conda)
    provide(monkeypatch, "azureml.train.estimator", Estimator=estimator)
    config = config_of(
        "backend.max_duration=90", "backend.use_gpu=true", "backend.vm_size=STANDARD_NC4AS_T4_V3"
    )
    job = launch.make_job()
    store = SimpleNamespace(path=lambda folder: SimpleNamespace(as_mount=lambda: f"mounted {folder}"))
    mounts = {plan.DATA_MOUNT: "mnist", plan.CHECKPOINT_MOUNT: "checkpoints"}
    made = prepare.configuration(plan.request(job, config), config, store, mounts, tmp_path)
    assert made == {"source_directory": str(tmp_path), "run_config": run_config}
    assert run_config.docker == {"use_docker": True}
    assert given["max_run_duration_seconds"] == 90 * 60
    assert given["compute_target"] == "traincluster"
    assert given["script_params"] == {
        "--job": node.encode(job),
        "--data-folder": "mounted mnist",
        "--checkpoints": "mounted checkpoints",
        "--device": "gpu",
    }
