"""Imports TensorFlow and Keras without other packages that they import if these are installed."""

from __future__ import annotations

import importlib
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

UNUSED = ("IPython", "jax", "matplotlib.pyplot", "pandas", "scipy", "sklearn")
"""They serve notebooks, data frames, sparse matrices and wrappers, which no training uses."""


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


@contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Let this thread's imports proceed as if packages were not installed. Later imports find them again."""
    finder = _Hidden(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
