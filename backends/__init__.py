"""Where a job can run: a table of name -> class, imported when chosen and not before.

A backend from outside the package is named by where it is: `package.module:Class`, or `file.py:Class`.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnist_cnn.config import BackendConfig, did_you_mean
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from mnist_cnn.backend import Backend


CONTRACT = ("CONFIG", "parallel_runs", "ends_with_its_command", "plan", "check", "submit", "attach")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A backend's class as "module:Class", the module that its extra brings, and that extra's name."""

    target: str
    requires: str | None = None
    extra: str | None = None


BACKENDS: dict[str, Entry] = {
    "local": Entry("mnist_cnn.backends.local:LocalBackend"),
    # It says itself what its extra is for: `plan` needs none of it.
    "azure": Entry("mnist_cnn.backends.azure:AzureBackend"),
}


def is_outside(name: str) -> bool:
    """Tell whether a backend's name says where its class is, rather than naming an entry of the table."""
    return ":" in name


def absolute_name(name: str) -> str:
    """Return an outside backend's name such that it means the same in every folder."""
    module, _, class_name = name.rpartition(":")
    return f"{Path(module).absolute()}:{class_name}" if module.endswith(".py") else name


def backend_class(name: str) -> type[Backend]:
    """Import and return a backend's class.

    Raises:
        ConfigurationError: there is no such backend, its extra is missing, or its class does not fit.
    """
    if is_outside(name):
        return _import_class(name)
    if name not in BACKENDS:
        known = ", ".join(sorted(BACKENDS))
        hint = did_you_mean(name, list(BACKENDS), "one of your own is named by backend=FILE.py:Class")
        raise ConfigurationError(f"backend={name}: there are {known}", hint)
    entry = BACKENDS[name]
    if entry.requires is not None and importlib.util.find_spec(entry.requires) is None:
        hint = f"install it with python -m pip install 'mnist-cnn[{entry.extra}]'"
        raise ConfigurationError(f"backend={name} needs {entry.requires}, which is not installed", hint)
    return _import_class(entry.target)


def _import_class(target: str) -> type[Backend]:
    module_name, _, class_name = target.rpartition(":")
    hint = "a backend is named by backend=FILE.py:Class or backend=package.module:Class"
    try:
        found: Any = getattr(_import_module(module_name), class_name, None)
    except Exception as error:
        message = f"backend={target} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(" ".join(message.split()), hint) from error
    missing = [name for name in CONTRACT if not hasattr(found, name)]
    if missing:
        raise ConfigurationError(f"backend={target} is no backend: it has no {', '.join(missing)}", hint)
    if not issubclass(found.CONFIG, BackendConfig):
        raise ConfigurationError(f"backend={target}: its CONFIG is no BackendConfig", hint)
    return cast("type[Backend]", found)


def _import_module(name: str) -> ModuleType:
    """Import a module by its name, or from a file where the name is a path that ends in .py."""
    return _import_file(Path(name).absolute()) if name.endswith(".py") else importlib.import_module(name)


@functools.cache
def _import_file(path: Path) -> ModuleType:
    """Import a file once, under a name that no other file has."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    name = f"mnist_cnn_backend_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"{path} is no Python file"
        raise ImportError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
