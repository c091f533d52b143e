"""What besides the job decides the trained weights, and how two such differ.

Knows neither TensorFlow nor files: whoever trains says what trains, and in which precision.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

from mnist_cnn import cpu, records
from mnist_cnn.version import __version__

RECORDED_PACKAGES = ("keras", "numpy", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Equal jobs end in equal weights where these five are equal; elsewhere nothing can be compared.

    `precision` is what `auto` came to, `device` is cpu or a GPU's name, `processor` names its architecture
    and decisive features, `threads` are those of one operation, `versions` those of what computes.
    """

    precision: str
    device: str
    processor: str
    threads: records.Count
    versions: dict[str, str]

    @classmethod
    def here(cls, precision: str, device: str, threads: int | None) -> Runtime:
        """Return those of this process; no `threads` are TensorFlow's choice, one for each processor."""
        return cls(precision, device, cpu.description(), threads or cpu.count(), versions())

    def changes_to(self, now: Runtime) -> tuple[str, ...]:
        """Word what is different now: "tensorflow 2.22.0 (was 2.21.0)"."""
        then = dataclasses.asdict(self)
        changed = tuple(
            f"{name} {value} (was {then[name]})"
            for name, value in dataclasses.asdict(now).items()
            if name != "versions" and value != then[name]
        )
        return (*changed, *changed_versions(self.versions, now.versions))


def versions() -> dict[str, str]:
    """Return the versions of what computes, as it is installed here; this package need not be."""
    return {"mnist_cnn": __version__, **{package: version(package) for package in RECORDED_PACKAGES}}


def changed_versions(then: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Word which packages have another version now."""
    return tuple(
        f"{package} {now.get(package)} (was {then.get(package)})"
        for package in sorted(then.keys() | now.keys())
        if then.get(package) != now.get(package)
    )
