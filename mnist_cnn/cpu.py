"""CPU features that affect speed and exact numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from mnist_cnn.errors import BackendError, ConfigurationError

# TensorFlow and oneDNN choose their kernels by these instruction sets; see oneDNN, "CPU Dispatcher Control".
_DECISIVE = {
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx_vnni", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_tile",
    "asimd", "asimddp", "asimdhp", "sve", "sve2", "bf16", "svebf16",
}  # fmt: skip
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""oneDNN's names of limits that exclude its bfloat16 kernels.

It ignores a limit that it doesn't know.
"""

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
"""The environment variable that lets TensorFlow use oneDNN."""

ROUNDING_VARIABLES = (
    "DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_USE_DEEP_CONV2D", "TF_XLA_FLAGS",
)  # fmt: skip
"""Environment variables that change how products are computed.

They let oneDNN round float32 operands, or replace TensorFlow's kernels.
"""


def features() -> tuple[str, ...]:
    """Return the decisive instruction sets, sorted; empty without /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_DECISIVE.intersection(flags.split())))


def description() -> str:
    """Return architecture and features, for example "x86_64 avx fma"."""
    return " ".join((platform.machine(), *features()))


def computes_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 numbers natively."""
    return not _BFLOAT16.isdisjoint(features())


def enable_onednn() -> None:
    """Let TensorFlow use oneDNN on every x86-64 CPU.

    Keeps the user's choice. Call it before the import. TensorFlow itself uses oneDNN only on CPUs with
    instructions for neural networks, such as AVX-512 VNNI. But it is faster on others too: a step of the
    tutorial takes 83 ms instead of 113 on a Zen 3 with AVX2. And only oneDNN computes convolutions with
    channels first.
    """
    if platform.machine() == "x86_64":
        os.environ.setdefault(ONEDNN, "1")


def has_slow_kernel_gradients() -> bool:
    """Return whether oneDNN's kernel gradients are slow here.

    With AVX2, its gradient of a convolution's kernel is slower than matrix products: 71 ms instead of 48 for
    the tutorial's second convolution, on one core of a Zen 3. With AVX-512 nobody has measured it.
    """
    return platform.machine() == "x86_64" and "avx512f" not in features()


def has_bfloat16_kernels() -> bool:
    """Return whether oneDNN multiplies bfloat16 natively here.

    Its environment variables may forbid it.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    is_enabled = os.environ.get(ONEDNN, "1").lower() not in ("0", "false")
    is_allowed = limit.upper() not in _WITHOUT_BFLOAT16
    return is_enabled and is_allowed and platform.machine() == "x86_64" and computes_bfloat16()


def check_exact(device: str) -> None:
    """Check that this machine can train with `train.numerics=exact`.

    `device` is auto, cpu or gpu. Other machines are refused because nobody has compared their results.

    Raises:
        ConfigurationError: it is a GPU, or an environment variable lets kernels round more than they must.
        BackendError: the machine isn't an x86-64 processor with FMA under Linux.
    """
    if device == "gpu":
        message = "train.numerics=exact trains on the CPU only, but backend.device=gpu requires a GPU"
        raise ConfigurationError(message, "leave out backend.device=gpu, or train with train.numerics=native")
    for name in ROUNDING_VARIABLES:
        value = os.environ.get(name, "")
        if value.upper() not in ("", "STRICT") and (name != "TF_XLA_FLAGS" or "auto_jit" in value):
            message = f"train.numerics=exact: {name}={value} changes how products are computed"
            raise ConfigurationError(message, f"unset {name}, or train with train.numerics=native")
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        what = f"{system} on {machine}"
    elif "fma" not in features():
        what = "a processor without FMA"
    else:
        return
    message = f"train.numerics=exact needs Linux on an x86-64 processor with FMA; this is {what}"
    raise BackendError(message, "train on another machine, or with train.numerics=native")


def count() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
