"""An .npz file is read as keras.datasets writes it, and becomes four IDX files in the cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mnist_cnn
from mnist_cnn.backends.remote import snapshot
from mnist_cnn.data import datasets
from mnist_cnn.errors import DataError, MnistCnnError

NUMBERS = np.random.default_rng(0)
ARRAYS = {
    "x_train": NUMBERS.integers(0, 256, (7, 12, 9), np.uint8),
    "y_train": np.array([2, 0, 1, 3, 0, 3, 2]),
    "x_test": NUMBERS.integers(0, 256, (3, 12, 9), np.uint8),
    "y_test": np.array([3, 0, 1]),
}
SMALL_NETWORK = ("model.filters=[2]", "train.shards=1")


def write(path: Path, **changes: Any) -> Path:
    """Write the arrays with these changes; None leaves one out."""
    arrays = {name: array for name, array in {**ARRAYS, **changes}.items() if array is not None}
    np.savez_compressed(path, **arrays)
    return path


def job_of(path: Path) -> mnist_cnn.Job:
    return mnist_cnn.make_job(f"data.dir={path}", *SMALL_NETWORK)


def refusal(path: Path) -> MnistCnnError:
    with pytest.raises(MnistCnnError) as refused:
        job_of(path)
    assert "\n" not in refused.value.message
    assert refused.value.hint
    return refused.value


def test_the_arrays_not_the_files_decide_the_digest(tmp_path: Path, cache: Path) -> None:
    job = job_of(write(tmp_path / "set.npz"))
    labels = {name: ARRAYS[name].astype(np.int64)[:, None] for name in ("y_train", "y_test")}
    images = {name: ARRAYS[name][..., None] for name in ("x_train", "x_test")}
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "one.npz", **labels, **images)
    assert job_of(tmp_path / "folder") == job
    assert job.data.dir == str(cache / str(job.data.digest))
    assert job.data.classes == 4
    assert datasets.load(job.data).x_train[..., 0].tolist() == ARRAYS["x_train"].tolist()
    copied = shutil.copytree(str(job.data.dir), tmp_path / "four-idx-files")
    assert job_of(copied).digest == job.digest
    assert len(snapshot.data_files(job.data)) == 4


def test_colour_becomes_grey_as_in_a_picture(tmp_path: Path) -> None:
    coloured = NUMBERS.integers(0, 256, (7, 12, 9, 3), np.uint8)
    job = job_of(write(tmp_path / "set.npz", x_train=coloured))
    grey = [np.asarray(Image.fromarray(image).convert("L")).tolist() for image in coloured]
    assert datasets.load(job.data).x_train[..., 0].tolist() == grey


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_test": None}, "set.npz: it has no x_test, but x_train, y_test, y_train"),
        ({"x_train": ARRAYS["x_train"] / 255}, "x_train: its float64 are not whole numbers from 0 to 255"),
        ({"y_train": ARRAYS["y_train"] + 254}, "y_train: its int64 are not whole numbers from 0 to 255"),
        ({"y_train": np.zeros((7, 4), np.uint8)}, "y_train: its shape is (7, 4)"),
        ({"x_train": np.zeros((7, 12, 9, 4), np.uint8)}, "x_train: its shape is (7, 12, 9, 4)"),
        ({"x_test": np.zeros((0, 12, 9), np.uint8)}, "x_test: it is empty"),
        ({"y_test": np.array([1, 2])}, "y_test: it has 2 labels for the 3 images of"),
        ({"y_test": np.array([3, 0, 9])}, "y_test: label 3 of 3 is 9"),
        ({"y_train": np.array([5, 0, 1, 3, 0, 3, 5])}, "y_train: its labels are 0 to 1, 3, 5"),
        ({"x_test": np.zeros((3, 9, 9), np.uint8)}, "x_test: its images have 9 x 9 pixels"),
        ({"y_test": np.array([{}, 1, 2], object)}, "Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, cache: Path, changes: dict[str, Any], said: str
) -> None:
    refused = refusal(write(tmp_path / "set.npz", **changes))
    assert said in refused.message
    assert "set.npz" in refused.message
    assert refused.exit_code == DataError.exit_code
    assert not cache.exists()


@pytest.mark.parametrize("part", [0, 100, -60, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, part: int) -> None:
    content = bytearray(write(tmp_path / "set.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(content[:part])
    assert "cut.npz is damaged, or not an .npz file" in refusal(tmp_path / "cut.npz").message


def test_no_more_than_the_limit_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_cnn.own_data.npz.MAX_BYTES", 500)
    assert "x_train: it has 884 bytes; the limit is 500" in refusal(write(tmp_path / "set.npz")).message


def test_a_folder_without_known_data_names_what_it_may_hold(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "notes.txt"):
        refused = refusal(path)
        assert refused.exit_code == DataError.exit_code
        assert all(layout in refused.hint for layout in (".npz", "x_train", "IDX"))
    write(tmp_path / "a.npz")
    write(tmp_path / "b.npz")
    refused = refusal(tmp_path)
    assert "it has 2 .npz files" in refused.message
    assert f"data.dir={tmp_path / 'a.npz'}" in refused.hint


def test_a_job_from_elsewhere_says_that_its_data_must_be_converted_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = write(tmp_path / "set.npz")
    job = job_of(original)
    shutil.rmtree(str(job.data.dir))
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path / "another"))
    with pytest.raises(DataError, match=r"does not exist\n.*plan data.dir=FOLDER"):
        datasets.load(job.data)
    mnist_cnn.plan(f"data.dir={original}", *SMALL_NETWORK)
    assert len(datasets.load(job.data).x_train) == len(ARRAYS["x_train"])


def test_a_damaged_cache_says_what_to_delete(tmp_path: Path) -> None:
    original = write(tmp_path / "set.npz")
    job = job_of(original)
    (Path(str(job.data.dir)) / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=f"delete {job.data.dir} and"):
        datasets.load(job.data)
    shutil.rmtree(str(job.data.dir))
    assert job_of(original) == job
