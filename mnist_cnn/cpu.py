"""What the processor can do, as far as it decides how and how exactly numbers are computed."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Instruction sets by which TensorFlow's and oneDNN's kernels are chosen; see oneDNN's page "CPU Dispatcher
# Control".
_DECISIVE = {"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
_DECISIVE |= {"avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_tile"}
_DECISIVE |= {"asimd", "asimddp", "asimdhp", "sve", "sve2", "bf16", "svebf16"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def features() -> tuple[str, ...]:
    """Return the instruction sets that matter here, sorted; none where there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_DECISIVE.intersection(flags.split())))


def description() -> str:
    """Return the architecture and its features as one text: "x86_64 avx avx2 fma"."""
    return " ".join((platform.machine(), *features()))


def computes_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 numbers natively."""
    return not _BFLOAT16.isdisjoint(features())


def count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
