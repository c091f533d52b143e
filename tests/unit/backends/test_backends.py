"""Choosing a backend by its name, its place or an entry point."""

from __future__ import annotations

import subprocess
import sys
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
    with pytest.raises(ConfigurationError, match="backend=clod: there are azure, cloud, local") as raised:
        backends.backend_class("clod")
    assert raised.value.hint == "did you mean cloud?"


def test_an_entry_point_cannot_replace_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, metadata.EntryPoint("local", "evil:Local", "mnist_cnn.backends"))
    assert backends.installed() == {}
    assert backends.backend_class("local").__name__ == "LocalBackend"


def test_an_entry_point_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, metadata.EntryPoint("cloud", "no_such_module:Cloud", "mnist_cnn.backends"))
    with pytest.raises(ConfigurationError, match="no_such_module:Cloud cannot be imported"):
        backends.backend_class("cloud")


def test_entry_points_are_not_read_for_a_name_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(metadata, "entry_points", never)
    assert not backends.is_outside("local")
    assert backends.backend_class("local").__name__ == "LocalBackend"


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
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(OWN)
    a, again, b = (
        backends.backend_class(f"{tmp_path / folder / 'own.py'}:Own") for folder in ("a", "a", "b")
    )
    assert a is again
    assert a is not b


def test_a_local_plan_never_loads_azureml(tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_cnn.cli.main import main; code = main(['plan', 'backend=local']); "
        "print([name for name in sys.modules if name.partition('.')[0] == 'azureml'], code)"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.splitlines()[-1] == "[] 0"
