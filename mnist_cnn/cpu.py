"""CPU features that decide how fast and how exactly numbers are computed."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# TensorFlow and oneDNN choose their kernels by these instruction sets; see oneDNN, "CPU Dispatcher Control".
_DECISIVE = {
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx_vnni", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_tile",
    "asimd", "asimddp", "asimdhp", "sve", "sve2", "bf16", "svebf16",
}  # fmt: skip
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def features() -> tuple[str, ...]:
    """Return the decisive instruction sets, sorted; empty if there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_DECISIVE.intersection(flags.split())))


def description() -> str:
    """Return the architecture and its features as one string: "x86_64 avx avx2 fma"."""
    return " ".join((platform.machine(), *features()))


def computes_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 numbers natively."""
    return not _BFLOAT16.isdisjoint(features())


def has_bfloat16_kernels() -> bool:
    """Return whether oneDNN multiplies bfloat16 numbers natively here; its variables may forbid it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    is_enabled = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") not in ("0", "false")
    is_allowed = limit in ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16") or "AMX" in limit
    return is_enabled and is_allowed and platform.machine() == "x86_64" and computes_bfloat16()


def count() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
