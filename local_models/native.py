"""Loading llama.cpp and torch: settings that only count before their libraries are in the process."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import psutil


def load_llama(verbose: bool = False) -> Any:
    """Import llama_cpp with calm threads and, unless verbose, without llama.cpp's own log below errors."""
    calm_openmp()
    # Its table of levels is one off: what llama.cpp calls a warning passes for an error there.
    logging.getLogger("llama-cpp-python").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    import llama_cpp

    return llama_cpp


def calm_openmp() -> None:
    """Bound how long idle OpenMP threads spin. Call before llama_cpp or torch is imported; the user's settings win.

    There is a barrier after every node of the graph. With libgomp's default, a thread there spins for milliseconds;
    when another process holds the core that the late thread needs, decoding collapses. Measured on two cores, decode
    in tokens/s alone and beside one busy process: default 65 and 5, passive 55 and 34, 1,000 spins 64 and 26,
    10,000 spins 72 and 17. A thousand spins keep nearly all of the speed, and fall in proportion.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def quick_int8() -> bool:
    """Whether this processor multiplies int8 quicker than float32: x86 with VNNI. Others were not measured."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def physical_cores() -> int:
    """Cores this process may use, counting hyper-threads once: they share the units that inference is bound by."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
