"""The runtime: what besides the job decides the weights.

This module doesn't import TensorFlow; the trainer passes in what only TensorFlow knows.
"""

from __future__ import annotations

import dataclasses
import os
from importlib.metadata import version

from mnist_cnn import cpu, records
from mnist_cnn.version import __version__

PACKAGES = ("keras", "numpy", "tensorflow")
THREADS = "TF_NUM_INTRAOP_THREADS"
VARIABLES = (
    "DNNL_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTEROP_THREADS",
    THREADS, "TF_SET_ONEDNN_FPMATH_MODE", "TF_USE_DEEP_CONV2D", "TF_XLA_FLAGS", "XLA_FLAGS",
)  # fmt: skip
"""Variables by which TensorFlow, oneDNN and CUDA choose kernels."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What besides the job decides the trained weights.

    Equal jobs end in equal weights if precision, device, versions and fingerprint are equal.

    `precision` is the one used, never `auto`. `device` is `cpu` or a GPU's name. `versions` are those of the
    packages that compute. `fingerprint` is of the numbers that the job's first steps compute, see
    `Trainer.fingerprint`; checkpoints of earlier versions have none.

    The others only describe what may change the fingerprint. `processor` is the CPU's architecture and its
    instruction sets, `threads` are those of one operation, `environment` holds those of VARIABLES that the
    user has set.
    """

    precision: str
    device: str
    processor: str
    threads: records.Count
    versions: dict[str, str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str | None = None

    @classmethod
    def here(
        cls, precision: str, device: str, threads: int | None = None, fingerprint: str | None = None
    ) -> Runtime:
        """Return this process's runtime.

        TensorFlow chooses the threads if they are None or 0.
        """
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        if environment.get(cpu.ONEDNN) == "1":  # which is the trainer's default
            del environment[cpu.ONEDNN]
        threads = threads or default_threads()
        return cls(precision, device, cpu.description(), threads, versions(), environment, fingerprint)

    def changes_to(self, now: Runtime, *, is_same_job: bool = True, before: str = "was") -> tuple[str, ...]:
        """Describe why the weights would differ now.

        For example "tensorflow 2.22.0 (was 2.21.0)"; empty if they don't. The fingerprints of two different
        jobs are not compared, so all that may differ is listed. `before` replaces "was" if the two runtimes
        are those of two machines.
        """
        decisive = self._changed(now, before, "precision", "device")
        decisive += changed_versions(self.versions, now.versions, before)
        descriptive = self._changed(now, before, "processor", "threads")
        if self.fingerprint is None:
            return (*decisive, *descriptive)
        variables = _changed_variables(self.environment, now.environment, before)
        known = (*decisive, *descriptive, *variables)
        if not is_same_job:
            return known
        if self.fingerprint == now.fingerprint:
            return decisive
        unexplained = "" if known else "; nothing else that is recorded differs"
        prints = f"fingerprint {str(now.fingerprint)[:8]}, {before} {self.fingerprint[:8]}{unexplained}"
        return (f"the numbers that the first steps compute ({prints})", *known)

    def _changed(self, now: Runtime, before: str, *names: str) -> tuple[str, ...]:
        pairs = ((name, getattr(self, name), getattr(now, name)) for name in names)
        return tuple(f"{name} {new} ({before} {old})" for name, old, new in pairs if new != old)


def default_threads() -> int:
    """Return how many threads TensorFlow's operations use by default.

    The rule is that of tensorflow/core/common_runtime/local_device.cc.
    """
    text = os.environ.get(THREADS, "").strip()
    return (int(text) if text.isdecimal() else 0) or cpu.count()


def versions() -> dict[str, str]:
    """Return the versions of all packages that compute.

    These include this package.
    """
    return {"mnist_cnn": __version__, **{package: version(package) for package in PACKAGES}}


def changed_versions(then: dict[str, str], now: dict[str, str], before: str = "was") -> tuple[str, ...]:
    """Describe which packages have another version now."""
    return tuple(
        f"{package} {now.get(package)} ({before} {then.get(package)})"
        for package in sorted(then.keys() | now.keys())
        if then.get(package) != now.get(package)
    )


def _changed_variables(then: dict[str, str], now: dict[str, str], before: str) -> tuple[str, ...]:
    return tuple(
        f"{f'{name}={now[name]}' if name in now else f'{name} not set'} "
        f"({before} {then.get(name, 'not set')})"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    )
