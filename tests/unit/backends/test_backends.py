"""Choosing a backend by its name, its place or an entry point."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mnist_cnn import backends
from mnist_cnn.errors import ConfigurationError

OWN = "from mnist_cnn.backends.local import LocalBackend\n\n\nclass Own(LocalBackend):\n    pass\n"


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    """Forget which backends are installed before and after each test."""
    backends.installed.cache_clear()
    yield
    backends.installed.cache_clear()


def register(monkeypatch: pytest.MonkeyPatch, *points: metadata.EntryPoint) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: [p for p in points if p.group == group])


def test_an_unknown_backend_is_refused_with_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, metadata.EntryPoint("cloud", "cloud:Cloud", "mnist_cnn.backends"))
    with pytest.raises(
        ConfigurationError, match="backend=clod: must be one of azure, cloud, local"
    ) as raised:
        backends.backend_class("clod")
    assert raised.value.hint == "did you mean cloud?"


def test_an_entry_point_cannot_replace_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, metadata.EntryPoint("local", "evil:Local", "mnist_cnn.backends"))
    assert backends.installed() == {}
    monkeypatch.setattr(metadata, "entry_points", None)  # they are not read for a name in the table
    backends.installed.cache_clear()
    assert not backends.is_outside("local")
    assert backends.backend_class("local").__name__ == "LocalBackend"


def test_an_entry_point_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, metadata.EntryPoint("cloud", "no_such_module:Cloud", "mnist_cnn.backends"))
    with pytest.raises(ConfigurationError, match="no_such_module:Cloud cannot be imported"):
        backends.backend_class("cloud")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Own:\n    pass\n", "is not a backend: it lacks CONFIG, parallel_runs"),
        (OWN.replace("pass", "CONFIG = dict"), "its CONFIG is not a subclass of BackendConfig"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_class_that_is_not_a_backend_is_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(ConfigurationError, match=message):
        backends.backend_class(f"{tmp_path / 'own.py'}:Own")


def test_a_file_gives_one_class_however_often_it_is_asked(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(OWN)
    a, again, b = (backends.backend_class(f"{tmp_path / name}:Own") for name in ("a.py", "a.py", "b.py"))
    assert a is again
    assert a is not b
