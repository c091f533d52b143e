"""The Python API, as far as it starts no training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.processes import SMALL
from helpers.records import write_receipt

import mnist_cnn
from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.local import LocalBackend
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from mnist_cnn.job import Job

    Submitted = list[tuple[Job, Path]]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    """Every job and folder that the local backend got; it starts no process."""
    submitted: Submitted = []

    def submit(_: LocalBackend, job: Job, folder: Path) -> Any:
        submitted.append((job, folder))
        return folder

    monkeypatch.setattr(LocalBackend, "submit", submit)
    return submitted


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
    folder = run_folder.create(str(tmp_path / "run"), "", job)
    write_receipt(folder, Status.cancelled, job_digest=job.digest)
    assert mnist_cnn.resume("latest", f"runs_dir={tmp_path}") is submitted[0][1]  # type: ignore[comparison-overlap] # the fixture's
    assert submitted == [(job, folder)]
    write_receipt(folder, Status.cancelled, job_digest="a-job-that-was-changed-meanwhile")
    with pytest.raises(ConfigurationError, match=r"this has changed: the job\n.*force=true"):
        mnist_cnn.resume(str(folder))
    mnist_cnn.resume(str(folder), "force=true")
    assert submitted == [(job, folder)] * 2


def test_a_registered_name_means_its_newest_finished_version(tmp_path: Path) -> None:
    for version, files in (("1", 2), ("10", 2), ("9", 2), ("11", 1), ("old", 2)):
        (tmp_path / "m" / version).mkdir(parents=True)
        for name in ("model.onnx", "model.json")[:files]:
            (tmp_path / "m" / version / name).touch()
    assert launch.find_model(str(tmp_path / "m")) == tmp_path / "m" / "10"
    assert launch.find_model(str(tmp_path / "m" / "9")) == tmp_path / "m" / "9"
    with pytest.raises(ConfigurationError, match="not a run"):
        launch.find_model(str(tmp_path))
