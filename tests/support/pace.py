"""How fast this machine runs Python at this moment, so that a bound on time holds on a slow one and under coverage."""

from __future__ import annotations

import os
import time

# What `_work` takes on the machine the bounds were measured on, when it is quiet.
_REFERENCE_S = 0.00045
# Branch coverage counts every line of gateway/, but none of this file.
_TRACED = 4.0 if "COVERAGE_PROCESS_CONFIG" in os.environ or "COV_CORE_SOURCE" in os.environ else 1.0


def allowed(seconds: float) -> float:
    """`seconds` on a quiet machine, stretched for this one as it is now: for bounds that catch a change of order."""
    return seconds * max(1.0, min(_work() for _ in range(20)) / _REFERENCE_S) * _TRACED


def _work() -> float:
    begun = time.perf_counter()
    counts: dict[str, int] = {}
    for number in range(3000):
        word = str(number % 97)
        counts[word] = counts.get(word, 0) + len(word)
    return time.perf_counter() - begun
