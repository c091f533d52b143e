"""PNG and JPEG files in a folder per class are read as grey levels, and split by their names and the seed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnist_cnn
from mnist_cnn.config import Pictures
from mnist_cnn.data import datasets
from mnist_cnn.errors import DataError, MnistCnnError

NAMES = ("ant", "bee", "cat")
PER_CLASS = 10
LAYOUTS = ("a folder per class", "an .npz file", "four IDX files")


def picture(number: int, shape: tuple[int, ...] = (12, 9)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, np.uint8))


def write(folder: Path, names: Sequence[str] = NAMES, count: int = PER_CLASS, seed: int = 0) -> Path:
    """Write folders of pictures, each of its own content."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(seed + 100 * label + index).save(folder / name / f"{index}.png")
    return folder


def job_of(folder: Path, *overrides: str) -> mnist_cnn.Job:
    return mnist_cnn.make_job(f"data.dir={folder}", "model.filters=[2]", *overrides)


def refusal(folder: Path, *overrides: str) -> MnistCnnError:
    with pytest.raises(MnistCnnError) as refused:
        job_of(folder, *overrides)
    assert "\n" not in refused.value.message
    assert refused.value.hint
    return refused.value


def test_the_folders_name_the_classes_and_each_is_split(tmp_path: Path) -> None:
    job = job_of(write(tmp_path / "set"))
    assert (job.data.class_names, job.data.classes, job.data.pictures) == (NAMES, 3, Pictures.whole)
    data = datasets.load(job.data)
    assert np.bincount(data.y_train).tolist() == [8, 8, 8]
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]
    assert np.bincount(data.y_train[:12], minlength=3).min() > 0  # mixed
    expected = {picture(100 * label + index).tobytes(): label for label in range(3) for index in range(10)}
    for images, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [expected.pop(image.tobytes()) for image in images] == labels.tolist()
    assert not expected


def test_names_and_seed_decide_the_split_and_the_arrays_the_digest(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    job = job_of(folder)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert job_of(moved) == job
    assert job_of(folder, "seed=1").data.digest != job.data.digest
    assert job_of(folder, "data.test_fraction=0.5").data.digest != job.data.digest
    data = datasets.load(job.data)
    arrays = {name: getattr(data, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "same.npz", **arrays)
    assert job_of(tmp_path / "same.npz").digest == job.digest


def test_train_and_test_may_have_folders_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write(tmp_path / "test", count=3, seed=50)
    data = datasets.load(job_of(tmp_path).data)
    assert (len(data.x_train), len(data.x_test)) == (30, 9)


def test_grey_and_colour_png_and_jpeg_are_read_and_others_ignored(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    picture(7, (12, 9, 3)).save(folder / "ant" / "colour.PNG")
    picture(8, (12, 9, 3)).save(folder / "ant" / "photo.jpeg")
    (folder / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / "ant" / "notes.txt").write_text("x")
    (folder / ".git").mkdir()
    (folder / "bee" / "link.png").symlink_to(folder / "ant" / "0.png")
    data = datasets.load(job_of(folder).data)
    assert len(data.x_train) + len(data.x_test) == 32


def test_pictures_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    picture(7, (40, 30)).save(folder / "bee" / "large.png")
    error = refusal(folder)
    assert "9x12 pixels" in error.message
    assert "bee/large.png has 30x40 pixels" in error.message
    assert "data.size=28" in error.hint
    assert datasets.load(job_of(folder, "data.size=20").data).x_train.shape[1:] == (20, 20, 1)


def test_all_broken_pictures_are_named_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "ant" / "3.png").write_bytes(b"")
    (folder / "cat" / "5.png").write_bytes((folder / "cat" / "5.png").read_bytes()[:60])
    error = refusal(folder)
    assert isinstance(error, DataError)
    assert "2 of 30 pictures cannot be used: " in error.message
    for name in ("ant/3.png", "cat/5.png"):
        assert str(folder / name) in error.message
    for path in (folder / "bee").iterdir():
        path.write_text("no picture")
    assert "and 2 more" in refusal(folder).message


def test_a_folder_of_no_known_layout_is_refused_with_the_three_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    error = refusal(tmp_path)
    assert error.exit_code == 3
    assert all(layout in error.hint for layout in LAYOUTS)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("ant",), "1 class folders, not 2 to 256"),
        (("train/ant", "train/bee"), "it has train/ but no test/"),
        (("train/ant", "train/bee", "test/ant"), "the class bee is only in train/"),
        (tuple(f"{number:03}" for number in range(257)), "257 class folders, not 2 to 256"),
    ],
)
def test_wrong_class_folders_are_refused(tmp_path: Path, made: tuple[str, ...], message: str) -> None:
    write(tmp_path, made, count=1)
    assert message in refusal(tmp_path).message


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / "dog").mkdir()
    assert "dog/ has no file that ends with .png" in refusal(tmp_path).message


def test_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    assert job_of(folder, "data.class_names=[x,y,z]").data.class_names == ("x", "y", "z")
    assert "2 names for 3 classes" in refusal(folder, "data.class_names=[x,y]").message


def test_a_photo_is_reduced_to_the_size_as_a_small_picture_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    ramp = Image.linear_gradient("L").rotate(90).convert("RGB")
    ramp.resize((1600, 1200)).save(folder / "ant" / "photo.jpg", quality=95)
    data = datasets.load(job_of(folder, "data.size=20").data)
    images = np.concatenate([data.x_train, data.x_test])[..., 0].astype(int)
    expected = np.asarray(ramp.convert("L").resize((20, 20), Image.Resampling.BICUBIC), int)
    assert np.abs(images - expected).max((1, 2)).min() <= 3


def test_only_pictures_take_a_size(tmp_path: Path) -> None:
    job = job_of(write(tmp_path / "set"), "data.size=20")
    assert job_of(Path(str(job.data.dir)), "data.size=20").digest == job.digest  # as resume does
    arrays = {
        name: getattr(datasets.load(job.data), name) for name in ("x_train", "y_train", "x_test", "y_test")
    }
    np.savez(tmp_path / "same.npz", **arrays)
    assert "data.size=28: only pictures" in refusal(tmp_path / "same.npz", "data.size=28").message
