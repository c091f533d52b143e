"""Reads the arrays of an .npz file, as keras.datasets writes it."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mnist_cnn.data.idx import MAX_BYTES
from mnist_cnn.errors import DataError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from mnist_cnn.data.datasets import Arrays
    from mnist_cnn.data.idx import Array

HINT = (
    "save it with numpy.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...), images (N, H, W) or "
    "(N, H, W, 3) and labels (N,), whole numbers from 0 to 255"
)
GREY = (19595, 38470, 7471)  # of 65536: red, green and blue, as Pillow weighs them
SLICE = 1000  # images made grey at once
# What zipfile and NumPy raise if the bytes are not what they promise.
DAMAGED = (
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    MemoryError,
)


@dataclass(frozen=True)
class Npz:
    """An .npz file; `changed` is its time of modification, in nanoseconds."""

    SUFFIX: ClassVar[str] = ".npz"
    NAMES: ClassVar[tuple[str, ...]] = ("x_train", "y_train", "x_test", "y_test")

    path: Path
    bytes: int
    changed: int

    @classmethod
    def at(cls, path: Path) -> Self:
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns)

    @property
    def parts(self) -> tuple[Path, ...]:
        return tuple(self.path / name for name in self.NAMES)

    def read(self) -> Arrays:
        """Read the four arrays; colour becomes grey. Raises DataError."""
        try:
            with safe_read.open_file(self.path) as file, zipfile.ZipFile(file) as archive:
                x_train, y_train, x_test, y_test = (self._read(archive, name) for name in self.NAMES)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}", HINT) from error
        except DAMAGED as error:
            raise DataError(f"{self.path} is damaged, or not an .npz file: {error}", HINT) from error
        return x_train, y_train, x_test, y_test

    def _read(self, archive: zipfile.ZipFile, name: str) -> Array:
        """Read one array: images (N, H, W), or labels (N,)."""
        import numpy as np

        where = self.path / name
        try:
            info = archive.getinfo(f"{name}.npy")
        except KeyError as error:
            others = ", ".join(sorted(Path(other).stem for other in archive.namelist()[:20])) or "nothing"
            raise DataError(f"{self.path}: it has no {name}, but {others}", HINT) from error
        if info.file_size > MAX_BYTES:  # zipfile unpacks no more than this
            raise DataError(f"{where}: it has {info.file_size:,} bytes; the limit is {MAX_BYTES:,}", HINT)
        with archive.open(info) as file:
            array: Any = np.lib.format.read_array(file, allow_pickle=False)
        if array.ndim > 1 and array.shape[-1] == 1:
            array = array[..., 0]
        are_images = name.startswith("x")
        is_colour = are_images and array.ndim == 4 and array.shape[-1] == 3  # noqa: PLR2004 - (N, H, W, 3)
        if not is_colour and array.ndim != (3 if are_images else 1):
            raise DataError(f"{where}: its shape is {array.shape}", HINT)
        if not array.size:
            raise DataError(f"{where}: it is empty", HINT)
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > np.iinfo(np.uint8).max:
            raise DataError(f"{where}: its {array.dtype} are not whole numbers from 0 to 255", HINT)
        return np.ascontiguousarray(_grey(array) if is_colour else array, np.uint8)


def _grey(images: Any) -> Any:
    """Return images (N, H, W, 3) as grey levels (N, H, W), as Pillow computes them."""
    import numpy as np

    grey = np.empty(images.shape[:3], np.uint8)
    for start in range(0, len(images), SLICE):
        part = images[start : start + SLICE].astype(np.uint32)
        grey[start : start + SLICE] = (part @ np.array(GREY, np.uint32) + 0x8000) >> 16
    return grey
