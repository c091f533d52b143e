"""Imports TensorFlow and Keras without other packages that they import if these are installed.

Also asks TensorFlow for a GPU without importing it here.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_cnn.errors import BackendError
from mnist_cnn.version import installation_hint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

UNUSED = ("IPython", "jax", "matplotlib.pyplot", "pandas", "scipy", "sklearn")
"""They serve notebooks, data frames, sparse matrices and wrappers, which no training uses."""

NO_GPU = 4
_ASK_FOR_GPU = f"import sys, tensorflow; tensorflow.config.list_physical_devices('GPU') or sys.exit({NO_GPU})"


class _Hidden:
    """A finder that stands before Python's own, and hides packages from this thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._thread = threading.get_ident()  # another one may be importing what it needs

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        del path, target
        if name in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is hidden while TensorFlow is imported", name=name)


def import_tensorflow() -> ModuleType:
    """Import TensorFlow and Keras faster; return TensorFlow."""
    with hidden(UNUSED):
        tensorflow = importlib.import_module("tensorflow")
        importlib.import_module("keras")
    return tensorflow


@functools.cache
def check_gpu() -> None:
    """Raise BackendError if TensorFlow finds no GPU.

    Asks it in another process, which takes as long as its import. If it cannot say, the worker will.
    """
    command = [sys.executable, "-P", "-c", _ASK_FOR_GPU]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if asked.returncode == NO_GPU:
        raise no_gpu()


def no_gpu() -> BackendError:
    hint = f"{installation_hint('gpu')}, or set backend.device=cpu"
    return BackendError("backend.device=gpu: TensorFlow finds no GPU on this machine", hint)


@contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Let this thread's imports proceed as if packages were not installed. Later imports find them again."""
    finder = _Hidden(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
