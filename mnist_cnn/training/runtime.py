"""The runtime: what besides the job decides the trained weights.

This module doesn't import TensorFlow; the trainer passes in device and precision.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

from mnist_cnn import cpu, records
from mnist_cnn.version import __version__

PACKAGES = ("keras", "numpy", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Equal jobs end in equal weights if these five are equal.

    `precision` is the one used, never `auto`. `device` is `cpu` or a GPU's name. `processor` is the CPU's
    architecture and the instruction sets that change sums. `threads` are those of one operation. `versions`
    are those of the packages that compute.
    """

    precision: str
    device: str
    processor: str
    threads: records.Count
    versions: dict[str, str]

    @classmethod
    def here(cls, precision: str, device: str, threads: int | None) -> Runtime:
        """Return this process's runtime; `threads=None` is TensorFlow's choice, one per CPU."""
        return cls(precision, device, cpu.description(), threads or cpu.count(), versions())

    def changes_to(self, now: Runtime) -> tuple[str, ...]:
        """Describe what is different now: "tensorflow 2.22.0 (was 2.21.0)"."""
        then = dataclasses.asdict(self)
        changed = tuple(
            f"{name} {value} (was {then[name]})"
            for name, value in dataclasses.asdict(now).items()
            if name != "versions" and value != then[name]
        )
        return (*changed, *changed_versions(self.versions, now.versions))


def versions() -> dict[str, str]:
    """Return the versions of this package and of the packages that compute."""
    return {"mnist_cnn": __version__, **{package: version(package) for package in PACKAGES}}


def changed_versions(then: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Describe which packages have another version now."""
    return tuple(
        f"{package} {now.get(package)} (was {then.get(package)})"
        for package in sorted(then.keys() | now.keys())
        if then.get(package) != now.get(package)
    )
