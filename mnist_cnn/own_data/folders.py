"""Reads PNG and JPEG files in a folder per class.

The folders' names, sorted, are the classes' names. They are in `train/` and `test/`, or `test_fraction` of
each class is tested on. Files with other endings, hidden files and symbolic links are ignored.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from mnist_cnn.data.idx import MAX_BYTES
from mnist_cnn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnist_cnn.config import DataConfig
    from mnist_cnn.data.datasets import Arrays
    from mnist_cnn.data.idx import Array

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_CLASSES = 256  # labels are bytes
MAX_FILES = 1_000_000
MAX_NAMED = 10
"""Most files that one message names."""
TRAIN, TEST = "train", "test"
HINT = (
    "put the PNG or JPEG files of each class into a folder with the class's name; these folders lie in "
    f"data.dir, or in {TRAIN}/ and {TEST}/ there"
)


class Picture(NamedTuple):
    """A file, which `name` describes relative to data.dir; `changed` is its time of modification."""

    name: str
    label: int
    bytes: int
    changed: int


@dataclass(frozen=True)
class ClassFolders:
    """The pictures of a folder per class, in the order of the arrays.

    `size` is the side of the arrays' images; None leaves the pictures as large as they are.
    """

    folder: Path
    class_names: tuple[str, ...]
    train: tuple[Picture, ...]
    test: tuple[Picture, ...]
    size: int | None

    @classmethod
    def at(cls, folder: Path, config: DataConfig, seed: int) -> Self:
        """List the pictures. Raises DataError, or OSError if a folder cannot be read."""
        names = _folders(folder)
        if {TRAIN, TEST} & {*names}:
            class_names, train, test = _list_two(folder, names)
        else:
            class_names, pictures = names, _list(folder, "", names)
            train, test = _split(pictures, config.test_fraction, seed)
        return cls(folder, class_names, _mixed(train), _mixed(test), config.size)

    @property
    def parts(self) -> tuple[Path, ...]:
        return (self.folder,) * 4

    def read(self) -> Arrays:
        """Read all pictures as grey levels. Raises DataError, which names all that cannot be used."""
        import numpy as np

        images = _read_all(self.folder, (*self.train, *self.test), self.size)
        labels = [np.array([picture.label for picture in part], np.uint8) for part in (self.train, self.test)]
        count = len(self.train)
        return images[:count], labels[0], images[count:], labels[1]


def _folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, without hidden ones and links."""
    with os.scandir(folder) as entries:
        return tuple(
            sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
        )


def _list_two(folder: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[Picture], list[Picture]]:
    """Return the classes' names, and the pictures in train/ and test/."""
    for part in (TRAIN, TEST):
        if part not in names:
            raise DataError(
                f"data.dir={folder}: it has {TEST if part == TRAIN else TRAIN}/ but no {part}/", HINT
            )
    class_names, others = _folders(folder / TRAIN), _folders(folder / TEST)
    if different := sorted({*class_names} ^ {*others}):
        where = TRAIN if different[0] in class_names else TEST
        message = f"data.dir={folder}: the class {different[0]} is only in {where}/"
        raise DataError(message, f"{TRAIN}/ and {TEST}/ need a folder for each class, with the same names")
    return class_names, _list(folder, TRAIN, class_names), _list(folder, TEST, class_names)


def _list(folder: Path, part: str, class_names: tuple[str, ...]) -> list[Picture]:
    """List the pictures of each class, sorted by name; `part` is train, test or empty."""
    if not 2 <= len(class_names) <= MAX_CLASSES:  # noqa: PLR2004 - the message says it
        where = f"{part}/" if part else "it"
        message = f"data.dir={folder}: {where} has {len(class_names)} class folders, not 2 to {MAX_CLASSES}"
        raise DataError(message, HINT)
    pictures: list[Picture] = []
    for label, name in enumerate(class_names):
        if not name.isprintable():
            raise DataError(f"data.dir={folder}: {name!r} cannot be a class's name", "rename that folder")
        place = f"{part}/{name}" if part else name
        found = sorted(_pictures(folder, place, label))
        if not found:
            raise DataError(
                f"data.dir={folder}: {place}/ has no file that ends with {', '.join(SUFFIXES)}", HINT
            )
        pictures += found
        if len(pictures) > MAX_FILES:
            message = f"data.dir={folder}: it has too many pictures; the limit is {MAX_FILES:,}"
            raise DataError(message, "take a part of them")
    return pictures


def _pictures(folder: Path, place: str, label: int) -> Iterator[Picture]:
    with os.scandir(folder / place) as entries:
        for entry in entries:
            is_picture = entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
            if is_picture and entry.is_file(follow_symlinks=False):
                found = entry.stat()
                yield Picture(f"{place}/{entry.name}", label, found.st_size, found.st_mtime_ns)


def _split(pictures: list[Picture], fraction: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Choose the test pictures of each class, by the pictures' names and the seed.

    A class of two or more pictures has at least one of each kind; one picture is trained on.
    """
    by_label: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_label.setdefault(picture.label, []).append(picture)
    train: list[Picture] = []
    test: list[Picture] = []
    for group in by_label.values():
        drawn = sorted(group, key=lambda picture: _draw(f"{seed}/{picture.name}"))
        count = min(max(1, round(fraction * len(group))), len(group) - 1)
        test += drawn[:count]
        train += drawn[count:]
    if not test:
        raise DataError(
            "data.dir: every class has only one picture", "give each at least two, one to test on"
        )
    return train, test


def _mixed(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    """Mix the classes, so that train_limit, test_limit and validation keep pictures of all of them."""
    return tuple(sorted(pictures, key=lambda picture: _draw(picture.name)))


def _draw(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _read_all(folder: Path, pictures: tuple[Picture, ...], size: int | None) -> Array:
    """Read pictures as grey levels (N, H, W). Raises DataError."""
    import numpy as np
    from tqdm import tqdm

    from mnist_cnn.prediction.pictures import MAX_PIXELS, read_whole

    side = None if size is None else (size, size)
    limit = MAX_PIXELS if size is None else None
    errors: list[DataError] = []
    shapes: dict[tuple[int, ...], str] = {}
    images = None
    for position, picture in enumerate(tqdm(pictures, unit="picture", disable=None, leave=False)):
        try:
            image = read_whole(folder / picture.name, side, max_pixels=limit)
        except DataError as error:
            errors.append(error)
            continue
        if images is None:
            _check_fits(folder, len(pictures), image.shape)
            images = np.empty((len(pictures), *image.shape), np.uint8)
        if image.shape == images.shape[1:]:
            images[position] = image
        shapes.setdefault(image.shape, picture.name)
    if errors or images is None:
        raise _together(folder, errors, len(pictures))
    if len(shapes) > 1:
        sizes = (f"{name} has {shape[1]}x{shape[0]} pixels" for shape, name in [*shapes.items()][:3])
        message = f"data.dir={folder}: the pictures differ in size: {', '.join(sizes)}"
        raise DataError(message, "set data.size=28 to resize all of them to 28x28 pixels")
    return images


def _check_fits(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    if count * math.prod(shape) > MAX_BYTES:
        message = f"data.dir={folder}: {count} pictures of {shape[1]}x{shape[0]} pixels are too many"
        raise DataError(message, f"set a smaller data.size; the limit is {MAX_BYTES:,} pixels in all")


def _together(folder: Path, errors: list[DataError], count: int) -> DataError:
    """Return one error that names the files of several."""
    named = "; ".join(error.message for error in errors[:MAX_NAMED])
    more = f"; and {len(errors) - MAX_NAMED} more" if len(errors) > MAX_NAMED else ""
    message = f"data.dir={folder}: {len(errors)} of {count} pictures cannot be used: {named}{more}"
    return DataError(message, "repair or remove these files; set data.size=28 if they are too large")
