"""The Python API, as far as it starts no training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.processes import SMALL
from helpers.records import ROW, write_receipt, write_result

import mnist_cnn
from mnist_cnn import launch, run_creation, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalConfig, LocalRun
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import checkpoint
from mnist_cnn.training.runtime import Runtime

if TYPE_CHECKING:
    from helpers.submissions import Submitted

    from mnist_cnn.receipt import Receipt


def test_a_job_and_an_override_that_changes_it_are_refused(tmp_path: Path, submitted: Submitted) -> None:
    job = mnist_cnn.make_job(*SMALL)
    settings = ("++train.epochs=5", "data.train_limit=7", "model.filters=[4,4]", "seed=3", "save_h5=true")
    for override in (*settings, "data=kmnist", "model=deep", "train=quick"):
        with pytest.raises(ConfigurationError) as refused:
            mnist_cnn.submit(job, f"runs_dir={tmp_path}", override)
        assert refused.value.message == f"{override} would change the submitted job"
        assert "make_job" in refused.value.hint
    with pytest.raises(ConfigurationError, match="one job, not 2"):
        mnist_cnn.submit(job, job, f"runs_dir={tmp_path}")
    assert submitted == []
    assert list(tmp_path.iterdir()) == []


def test_a_job_and_overrides_of_where_it_runs_are_accepted(tmp_path: Path, submitted: Submitted) -> None:
    job = mnist_cnn.make_job(*SMALL)
    run_dir = tmp_path / "first"
    mnist_cnn.submit(job, "backend=local", "backend.device=cpu", "register.name=digits", f"run_dir={run_dir}")
    mnist_cnn.submit(job, f"runs_dir={tmp_path / 'runs'}")
    assert [given for given, _ in submitted] == [job, job]
    assert submitted[0][1] == run_dir


def test_resume_starts_an_interrupted_run_in_its_folder(tmp_path: Path, submitted: Submitted) -> None:
    job = mnist_cnn.make_job(*SMALL)
    with run_creation.create(str(tmp_path / "run"), "", job) as folder:
        write_receipt(folder, Status.cancelled, job_digest=job.digest)
    assert mnist_cnn.resume("latest", f"runs_dir={tmp_path}") is submitted[0][1]  # type: ignore[comparison-overlap] # the fixture's
    assert submitted == [(job, folder)]
    write_receipt(folder, Status.cancelled, job_digest="a-job-that-was-changed-meanwhile")
    with pytest.raises(ConfigurationError, match=r"this has changed: the job\n.*force=true"):
        mnist_cnn.resume(str(folder))
    mnist_cnn.resume(str(folder), "force=true")
    assert submitted == [(job, folder)] * 2


def test_overrides_change_the_recorded_settings_of_a_backend(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.completed, backend_settings={"device": "gpu"})
    for overrides, device in (((), "gpu"), (("backend.device=cpu",), "cpu")):
        config = launch.config_of_run(tmp_path, overrides, ()).backend
        assert isinstance(config, LocalConfig)
        assert config.device == device


OTHER_BACKEND = "from mnist_cnn.backends.local import LocalBackend as Other"


def test_a_run_that_moves_keeps_what_another_process_has_recorded(
    tmp_path: Path, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the checkpoints are downloaded, another process resumes the run on its old backend."""
    (tmp_path / "other.py").write_text(OTHER_BACKEND)
    with run_creation.create(str(tmp_path / "run"), "", mnist_cnn.make_job(*SMALL)) as folder:
        digest = run_folder.read_job(folder).digest
        write_receipt(folder, Status.running, job_digest=digest, created="2026-01-01T00:00:00+00:00")
    resumed: list[Receipt] = []

    def download(run: LocalRun) -> None:
        resumed.append(write_receipt(run.folder, Status.preparing, id="resumed", job_digest=digest))

    os.utime(folder / "run.json", (0, 0))  # so that the first trainer counts as lost
    monkeypatch.setattr(LocalRun, "download_checkpoints", download)
    mnist_cnn.resume(str(folder), f"backend={tmp_path / 'other.py'}:Other")
    assert run_folder.read_receipt(folder) == resumed[0]
    assert len(submitted) == 1  # `submit` compares the receipt again, and refuses


@pytest.fixture
def completed(tmp_path: Path) -> Path:
    """A completed run with a checkpoint, which trained the job SMALL."""
    folder, job = tmp_path / "run", mnist_cnn.make_job(*SMALL)
    write_result(folder)
    run_folder.write_job(folder, job)
    here = Runtime("float32", "cpu", "x86_64", 2, {})
    saved = checkpoint.Checkpoint(job, here, (ROW, ROW), (), checkpoint.generators())
    checkpoint.Checkpoints(folder / run_folder.CHECKPOINTS).save(saved)
    return folder


def _damage(path: Path, damage: str | None) -> None:
    path.unlink()
    if damage is not None:
        path.write_text(damage)


@pytest.mark.parametrize("name", ["result.json", "job.json", "model.onnx"])
@pytest.mark.parametrize("damage", [None, "{"], ids=["missing", "damaged"])
def test_resume_rebuilds_what_a_completed_run_has_lost(
    completed: Path, submitted: Submitted, name: str, damage: str | None
) -> None:
    with pytest.raises(ConfigurationError, match="run is completed"):
        mnist_cnn.resume(str(completed))
    _damage(completed / name, damage)
    mnist_cnn.resume(str(completed))
    job = mnist_cnn.make_job(*SMALL)
    assert submitted == ([] if name == "job.json" else [(job, completed)])  # nothing to train
    assert run_folder.read_job(completed) == job


def test_resume_restores_the_job_of_a_completed_run(completed: Path, submitted: Submitted) -> None:
    """That of a run that isn't completed may be changed, with force=true."""
    changed = (completed / "job.json").read_text().replace('"seed": 0', '"seed": 1')
    (completed / "job.json").write_text(changed)
    assert mnist_cnn.resume(str(completed)).status() is Status.completed
    assert run_folder.read_job(completed).seed == 0
    assert submitted == []


@pytest.mark.parametrize("given", [None, 3, b"seed=1", ["seed=1"]])
def test_only_a_job_and_texts_are_submitted(submitted: Submitted, given: Any) -> None:
    for call in (mnist_cnn.submit, mnist_cnn.make_job):
        with pytest.raises(ConfigurationError, match="is not an override"):
            call(given)
    assert submitted == []


def test_a_job_that_no_checkpoint_holds_is_not_rebuilt(completed: Path, submitted: Submitted) -> None:
    (completed / "job.json").write_text("{")
    for path in (completed / run_folder.CHECKPOINTS).glob("*.sha256"):
        path.unlink()
    with pytest.raises(ConfigurationError, match=r"job\.json is not a job") as raised:
        mnist_cnn.resume(str(completed))
    assert raised.value.hint == "no checkpoint holds the job either; start a new run"
    assert submitted == []


def test_a_registered_name_means_its_newest_finished_version(tmp_path: Path) -> None:
    for version, files in (("1", 2), ("10", 2), ("9", 2), ("11", 1), ("old", 2)):
        (tmp_path / "m" / version).mkdir(parents=True)
        for name in ("model.onnx", "model.json")[:files]:
            (tmp_path / "m" / version / name).touch()
    assert launch.find_model(str(tmp_path / "m")) == tmp_path / "m" / "10"
    assert launch.find_model(str(tmp_path / "m" / "9")) == tmp_path / "m" / "9"
    with pytest.raises(ConfigurationError, match="not a run"):
        launch.find_model(str(tmp_path))


def test_the_plan_names_the_precision_and_the_bits_of_exact_numerics() -> None:
    lines = dict(launch.plan("train.numerics=exact", "train.precision=auto", "train.exact_bits=8").lines)
    assert lines["train"].endswith("precision bfloat16, exact sums of 8-bit operands")
    assert "exact" not in dict(launch.plan().lines)["train"]
