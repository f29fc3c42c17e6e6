"""How far a distribution has moved: the population stability index (Siddiqi, Credit Risk Scorecards, 2006)."""

from __future__ import annotations

import math
from collections.abc import Iterable


def stability_index(counts: Iterable[tuple[int, int]]) -> float:
    """Σ (p − q) ln(p ÷ q) over the values of a distribution, of each how often it came now and before.

    Half a count is added to each, so that a value that came only once in a while is not infinitely far away.
    """
    pairs = [(now + 0.5, before + 0.5) for now, before in counts]
    of_now, of_before = (math.fsum(pair[side] for pair in pairs) for side in (0, 1))
    return math.fsum((p / of_now - q / of_before) * math.log(p * of_before / (q * of_now)) for p, q in pairs)
