"""Checkpoints: complete or absent, the newest two, damaged ones skipped, and what can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faults.trial import limited

from mnist_cnn import launch
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.result import EpochRow
from mnist_cnn.training import checkpoint
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints, MountedCheckpoints
from mnist_cnn.training.runtime import Runtime

if TYPE_CHECKING:
    from mnist_cnn.job import Job

INEXACT = "the run cannot be resumed exactly, because this has changed: "
HERE = Runtime("float32", "cpu", "x86_64 avx2", 2, {"keras": "3.15.0", "numpy": "2.3.0"})


def a_job(*overrides: str) -> Job:
    return launch.make_job("train.epochs=9", *overrides)


def a_checkpoint(epochs: int, *overrides: str, fill: float = 0.0) -> Checkpoint:
    rows = tuple(EpochRow(epoch, 1.0, 0.5, 1.0, 0.5, 1.0, 2.0) for epoch in range(1, epochs + 1))
    arrays: tuple[Any, ...] = (
        np.full((2, 3), epochs + fill, np.float32),
        np.array([7, epochs], np.uint32),
        np.array(epochs, np.int64),
    )
    return Checkpoint(a_job(*overrides), HERE, rows, arrays, checkpoint.generators())


def names(folder: Path, pattern: str = "*.npz") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def newest_epoch(kept: Checkpoints) -> int:
    found = kept.newest()
    return len(found.history) if found is not None else 0


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    """The checkpoints of a folder that holds the first epoch's."""
    kept = Checkpoints(tmp_path)
    kept.save(a_checkpoint(1))
    return kept


def write_checksum(path: Path) -> None:
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_newest_two_are_kept_and_read_back_exactly(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "c")
    for epochs in (1, 2, 3):
        kept.save(a_checkpoint(epochs))
    assert names(tmp_path / "c") == ["epoch-000002.npz", "epoch-000003.npz"]
    assert names(tmp_path / "c", "*") == [f"epoch-00000{n}.{s}" for n in (2, 3) for s in ("npz", "sha256")]
    found, saved = kept.newest(), a_checkpoint(3)
    assert found is not None
    assert (found.job, found.runtime, found.history) == (saved.job, HERE, saved.history)
    for array, expected in zip(found.arrays, saved.arrays, strict=True):
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)


def test_a_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").newest() is None
    assert MountedCheckpoints(tmp_path / "none").newest() is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flip": (".npz", flip),
    "cut": (".npz", lambda file: file.write_bytes(file.read_bytes()[:-10])),
    "empty": (".npz", lambda file: file.write_bytes(b"")),
    "other checksum": (".sha256", lambda file: file.write_text("0" * 64)),
    "binary checksum": (".sha256", lambda file: file.write_bytes(b"\xff\x00")),
    "folder": (".sha256", replace_by_folder),
}


@pytest.mark.parametrize(("suffix", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, kept: Checkpoints, suffix: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept.save(a_checkpoint(2))
    damage(tmp_path / f"epoch-000002{suffix}")
    assert newest_epoch(kept) == 1
    assert "epoch-000002.npz is damaged: skipped" in caplog.text


def test_a_checkpoint_without_a_checksum_does_not_exist(
    tmp_path: Path, kept: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "epoch-000002.npz").write_bytes(b"half")
    assert newest_epoch(kept) == 1
    assert caplog.text == ""


ROW = dataclasses.asdict(EpochRow(1, 1.0, 0.5, 1.0, 0.5, 1.0, 2.0))
FORGED: dict[str, dict[str, Any]] = {
    # values that replace those of a sound `about`
    "other schema": {"schema": 3},
    "half a row": {"history": [{"epoch": 1}]},
    "threads are text": {"runtime": {**dataclasses.asdict(HERE), "threads": "two"}},
    "a loss is no number": {"history": [{**ROW, "loss": float("nan")}]},
    "a seed is missing": {"generators": {"python": [3, [1], None], "numpy": ["MT19937"]}},
}
NO_CHECKPOINT: dict[str, dict[str, Any]] = {
    "pickle": {"0000": np.array([{"a": 1}], dtype=object), "about": np.frombuffer(b"{}", np.uint8)},
    "no about": {"0000": np.zeros(3)},
    "about is a list": {"about": np.frombuffer(b"[1, 2]", np.uint8)},
    "text": {"about": np.array("{}")},
}


@pytest.mark.parametrize("odd", [*FORGED, *NO_CHECKPOINT])
def test_a_forged_checkpoint_with_a_right_checksum_is_skipped(
    tmp_path: Path, kept: Checkpoints, odd: str
) -> None:
    with np.load(tmp_path / "epoch-000001.npz") as stored:
        about = json.loads(stored["about"].tobytes()) | FORGED.get(odd, {})
    forged = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    path = tmp_path / "epoch-000002.npz"
    np.savez(path, **NO_CHECKPOINT.get(odd, forged))
    write_checksum(path)
    assert newest_epoch(kept) == 1


class Pickled:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_no_code_in_a_checkpoint_is_executed(tmp_path: Path, kept: Checkpoints) -> None:
    with np.load(tmp_path / "epoch-000001.npz") as stored:
        arrays = {"about": stored["about"], "0000": np.array([Pickled(tmp_path / "executed")])}
    path = tmp_path / "epoch-000002.npz"
    np.savez(path, **arrays)
    write_checksum(path)
    assert kept.newest_file() == tmp_path / "epoch-000001.npz"
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_a_member_that_is_no_array_is_skipped(tmp_path: Path, kept: Checkpoints) -> None:
    kept.save(a_checkpoint(2))
    newest = tmp_path / "epoch-000002.npz"
    with zipfile.ZipFile(newest, "a") as members:
        members.writestr("0003", b"bytes")
    write_checksum(newest)
    assert newest_epoch(kept) == 1


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_pipes_and_folders_named_like_checkpoints_are_skipped(
    tmp_path: Path, kept: Checkpoints, what: str
) -> None:
    for name in ("epoch-000002.npz", "epoch-000003.npz", "epoch-000003.sha256"):
        os.mkfifo(tmp_path / name) if what == "pipe" else (tmp_path / name).mkdir()
    (tmp_path / "epoch-000002.sha256").write_text("0" * 64)
    with limited(60):
        assert newest_epoch(kept) == 1


def test_no_member_of_a_zip_bomb_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch-000002.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.npy", bytes(1_000_000))
    write_checksum(path)
    opened: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda _, name, *args, **options: opened.append(name))
    assert Checkpoints(tmp_path).newest() is None
    assert not opened


def test_a_failed_write_leaves_the_older_checkpoints(tmp_path: Path, kept: Checkpoints) -> None:
    (tmp_path / "epoch-000002.npz").mkdir()
    with pytest.raises(BackendError, match=r"cannot write .*epoch-000002\.npz"):
        kept.save(a_checkpoint(2))
    assert names(tmp_path, "*.sha256") == ["epoch-000001.sha256"]
    assert not names(tmp_path, ".writing*")
    (tmp_path / "c").write_text("a file, where a folder should be")
    with pytest.raises(BackendError, match="/c: File exists"):
        Checkpoints(tmp_path / "c").save(a_checkpoint(1))


def test_a_new_training_is_not_pruned_by_damaged_later_epochs(tmp_path: Path) -> None:
    for epochs in (8, 9):
        Checkpoints(tmp_path).save(a_checkpoint(epochs))
        (tmp_path / f"epoch-00000{epochs}.sha256").write_text("0" * 64)
    anew = Checkpoints(tmp_path)
    assert anew.newest() is None
    for epochs in (1, 2, 3):
        anew.save(a_checkpoint(epochs))
    assert names(tmp_path) == [f"epoch-00000{n}.npz" for n in (2, 3, 8, 9)]
    assert newest_epoch(Checkpoints(tmp_path)) == 3
    for epochs in (8, 9):
        anew.save(a_checkpoint(epochs))
    assert names(tmp_path) == ["epoch-000008.npz", "epoch-000009.npz"]


@pytest.mark.parametrize("kind", [Checkpoints, MountedCheckpoints])
def test_a_damaged_checkpoint_is_not_one_of_the_two_that_are_kept(
    tmp_path: Path, kind: type[Checkpoints]
) -> None:
    kept = kind(tmp_path)
    for epochs in (1, 2):
        kept.save(a_checkpoint(epochs))
    flip(tmp_path / names(tmp_path)[-1])
    resumed = kind(tmp_path)
    assert newest_epoch(resumed) == 1
    resumed.save(a_checkpoint(3))
    assert [name[:12] for name in names(tmp_path)] == ["epoch-000001", "epoch-000002", "epoch-000003"]
    flip(tmp_path / names(tmp_path)[-1])
    assert newest_epoch(kind(tmp_path)) == 1


class TestMounted:
    def test_nothing_in_a_store_is_renamed_or_rewritten(self, tmp_path: Path) -> None:
        kept = MountedCheckpoints(tmp_path)
        kept.save(a_checkpoint(2))
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        kept.save(a_checkpoint(2, fill=0.5))
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert len(after) == 4
        assert {name: after[name] for name in before} == before

    def test_the_checksum_is_copied_last_without_renaming(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied: list[str] = []
        copyfile = shutil.copyfile

        def copy(source: Path, target: Path) -> None:
            copied.append(target.suffix)
            copyfile(source, target)

        def refuse(path: Path, target: Path, *, replace: Callable[[Path, Path], Path] = Path.replace) -> Path:
            assert not target.is_relative_to(tmp_path)
            return replace(path, target)

        monkeypatch.setattr(shutil, "copyfile", copy)
        monkeypatch.setattr(Path, "replace", refuse)
        MountedCheckpoints(tmp_path).save(a_checkpoint(1))
        assert copied == [".npz", ".sha256"]

    def test_two_are_kept_and_the_newest_sound_one_is_found(self, tmp_path: Path) -> None:
        kept = MountedCheckpoints(tmp_path)
        for epochs in (1, 2, 3, 4):
            kept.save(a_checkpoint(epochs))
        assert [name[:12] for name in names(tmp_path)] == ["epoch-000003", "epoch-000004"]
        assert len(names(tmp_path, "*.sha256")) == 2
        path = tmp_path / names(tmp_path)[-1]
        path.write_bytes(path.read_bytes()[:-1])
        assert newest_epoch(kept) == 3

    def test_an_interrupted_copy_does_not_exist(self, tmp_path: Path) -> None:
        for epochs in (1, 2):
            MountedCheckpoints(tmp_path).save(a_checkpoint(epochs))
        (tmp_path / names(tmp_path, "*.sha256")[-1]).unlink()
        assert newest_epoch(MountedCheckpoints(tmp_path)) == 1

    def test_a_failing_store_does_not_stop_the_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "store").write_text("a file, where a folder should be")
        assert not MountedCheckpoints(tmp_path / "store").save(a_checkpoint(1))
        assert "checkpoint of epoch 1 not saved, the store failed" in caplog.text

    def test_a_failing_local_disk_is_a_backend_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(BackendError, match="/gone: No such file") as raised:
            MountedCheckpoints(tmp_path / "store").save(a_checkpoint(1))
        assert "TMPDIR=FOLDER" in raised.value.hint


def test_random_generators_of_python_and_numpy_are_restored(kept: Checkpoints) -> None:
    kept.save(a_checkpoint(2))
    drawn = random.random(), np.random.normal()  # noqa: S311, NPY002 - the global ones are meant
    found = kept.newest()
    assert found is not None
    checkpoint.set_generators(found.generators)
    assert (random.random(), np.random.normal()) == drawn  # noqa: S311, NPY002


class TestCheck:
    def test_an_unchanged_checkpoint_is_resumed_from(self) -> None:
        found = a_checkpoint(2)
        other = a_job("train.checkpoint_every=5", "save_h5=true")  # which decide no weight
        assert found.check(other, HERE, force=False) is found

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"precision": "bfloat16"}, "precision bfloat16 (was float32)"),
            ({"device": "A100"}, "device A100 (was cpu)"),
            ({"processor": "aarch64 sve"}, "processor aarch64 sve (was x86_64 avx2)"),
            ({"threads": 4}, "threads 4 (was 2)"),
            ({"versions": {"keras": "3.16.0", "numpy": "2.3.0"}}, "keras 3.16.0 (was 3.15.0)"),
        ],
    )
    def test_without_a_fingerprint_a_changed_runtime_is_refused(
        self, changed: dict[str, Any], said: str
    ) -> None:
        """Earlier versions wrote such checkpoints."""
        now = dataclasses.replace(HERE, **changed)
        with pytest.raises(ConfigurationError) as refused:
            a_checkpoint(2).check(a_job(), now, force=False)
        assert refused.value.message == f"{INEXACT}{said}"
        assert "force=true" in refused.value.hint
        forced = a_checkpoint(2).check(a_job(), now, force=True)
        assert forced.changes == (f"since epoch 3: {said}",)

    def test_another_fingerprint_is_refused_for_the_same_job_only(self) -> None:
        before, now = (dataclasses.replace(HERE, fingerprint=letter * 64) for letter in "ab")
        found = dataclasses.replace(a_checkpoint(2), runtime=before)
        assert found.check(a_job(), before, force=False) is found
        with pytest.raises(ConfigurationError, match="fingerprint bbbbbbbb, was aaaaaaaa") as refused:
            found.check(a_job(), now, force=False)
        assert "resume RUN force=true" in refused.value.hint
        forced = found.check(a_job("seed=3"), now, force=True)
        assert forced.changes == ("since epoch 3: seed=3 (was 0)",)

    def test_a_changed_job_is_refused_and_described(self) -> None:
        job = a_job("train.learning_rate=0.5", "model.filters=[8,16]", "seed=3")
        with pytest.raises(ConfigurationError) as refused:
            a_checkpoint(2).check(job, HERE, force=False)
        changes = (
            "train.learning_rate=0.5 (was 1.0)",
            "model.filters=[8,16] (was [32,64])",
            "seed=3 (was 0)",
        )
        assert all(said in refused.value.message for said in changes)

    def test_changes_that_were_forced_before_are_kept(self) -> None:
        first = a_checkpoint(2).check(a_job("seed=1"), HERE, force=True)
        later = dataclasses.replace(first, job=a_job("seed=1"), history=a_checkpoint(4).history)
        assert later.check(a_job("seed=1"), HERE, force=False).changes == first.changes
        again = later.check(a_job("seed=2"), HERE, force=True)
        assert again.changes == ("since epoch 3: seed=1 (was 0)", "since epoch 5: seed=2 (was 1)")

    def test_a_job_shorter_than_the_checkpoint_is_always_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="is of epoch 4, the job has 3"):
            a_checkpoint(4).check(a_job("train.epochs=3"), HERE, force=True)
