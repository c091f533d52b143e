"""The table of backends, each imported when chosen.

There are two ways to choose a backend from outside this package. An installed package registers a name with
an entry point of the group `mnist_cnn.backends`. A class that is not registered is chosen as
`package.module:Class` or `file.py:Class`.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnist_cnn.config import BackendConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

    from mnist_cnn.backend import Backend


CONTRACT = ("CONFIG", "parallel_runs", "ends_with_its_command", "plan", "check", "submit", "attach")
ENTRY_POINTS = "mnist_cnn.backends"

BACKENDS: dict[str, str] = {
    "local": "mnist_cnn.backends.local:LocalBackend",
    "azure": "mnist_cnn.backends.azure:AzureBackend",
    "slurm": "mnist_cnn.backends.slurm:SlurmBackend",
}


@functools.cache
def installed() -> dict[str, str]:
    """Return installed packages' backends, as name -> "module:Class"."""
    from importlib.metadata import entry_points  # slow, and rarely needed

    points = entry_points(group=ENTRY_POINTS)
    return {point.name: f"{point.module}:{point.attr}" for point in points if point.name not in BACKENDS}


def is_outside(name: str) -> bool:
    """Return whether a backend comes from outside this package."""
    return ":" in name or (name not in BACKENDS and name in installed())


def absolute_name(name: str) -> str:
    """Return a backend's name with its file's absolute path."""
    module, _, class_name = name.rpartition(":")
    return f"{Path(module).absolute()}:{class_name}" if module.endswith(".py") else name


def backend_class(name: str) -> type[Backend]:
    """Import and return a backend's class.

    Raises:
        ConfigurationError: no backend has this name, or the class cannot be imported or lacks something.
    """
    target = name if ":" in name else BACKENDS.get(name) or installed().get(name)
    if target is None:
        known = sorted({*BACKENDS, *installed()})
        hint = did_you_mean(name, known, "choose a class of your own with backend=FILE.py:Class")
        raise ConfigurationError(f"backend={name}: must be one of {', '.join(known)}", hint)
    return _import_class(target)


def _import_class(target: str) -> type[Backend]:
    module_name, _, class_name = target.rpartition(":")
    hint = "choose a backend with backend=NAME, backend=FILE.py:Class or backend=package.module:Class"
    try:
        is_file = module_name.endswith(".py")
        module = _import_file(Path(module_name).absolute()) if is_file else import_module(module_name)
        found: Any = getattr(module, class_name, None)
    except Exception as error:
        message = f"backend={target} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(" ".join(message.split()), hint) from error
    missing = [name for name in CONTRACT if not hasattr(found, name)]
    if missing:
        raise ConfigurationError(f"backend={target} is not a backend: it lacks {', '.join(missing)}", hint)
    if not issubclass(found.CONFIG, BackendConfig):
        raise ConfigurationError(f"backend={target}: its CONFIG is not a subclass of BackendConfig", hint)
    return cast("type[Backend]", found)


@functools.cache
def _import_file(path: Path) -> ModuleType:
    """Import a file once, under a unique module name."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    name = f"mnist_cnn_backend_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
