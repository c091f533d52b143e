"""Packages that no training uses are hidden while TensorFlow is imported."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_cnn.training.tensorflow_import import hidden


def test_a_package_is_hidden_from_one_thread_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "made_for_this_test"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with hidden([name]):
        with pytest.raises(ModuleNotFoundError, match="is hidden"):
            importlib.import_module(name)
        with ThreadPoolExecutor() as other:
            other.submit(importlib.import_module, name).result()
        del sys.modules[name]
    importlib.import_module(name)
    del sys.modules[name]
