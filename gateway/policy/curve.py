"""How well a score splits prompts between a strong and a weak model: APGR, CPT and the saving at a quality floor.

Definitions of RouteLLM (https://arxiv.org/abs/2406.18665, section 3): with the share f of highest-scored prompts sent
to the strong model, Q(f) is the mean quality, PGR(f) = (Q(f) − Q(0)) / (Q(1) − Q(0)) the gap recovered, APGR its
integral over f (random: 0.5), CPT(x) the smallest f with PGR(f) ≥ x. Equal scores count as in random order.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.types import Frozen

Values: TypeAlias = NDArray[np.float64]

FLOOR = 0.95


class Split(Frozen, frozen=True, kw_only=True):
    """One scorer on one set. ``saving``: the share of prompts that may stay with the weak model while the mean quality
    is at least 95 % of the strong one's. NaN where the strong model is not the better one.
    """

    apgr: float
    cpt50: float
    cpt80: float
    saving: float


def split(strong: Values, weak: Values, score: Values) -> Split:
    """Judge ``score`` (higher: to the strong model). All of shape (prompts,)."""
    share, quality = curve(strong, weak, score)
    gap = quality[-1] - quality[0]
    if not gap > 0:
        return Split(apgr=math.nan, cpt50=math.nan, cpt80=math.nan, saving=math.nan)
    recovered = (quality - quality[0]) / gap
    area = float(((recovered[1:] + recovered[:-1]) / 2).mean())
    enough = _reaches(share, quality, FLOOR * quality[-1])
    return Split(
        apgr=area, cpt50=_reaches(share, recovered, 0.5), cpt80=_reaches(share, recovered, 0.8), saving=1 - enough
    )


def curve(strong: Values, weak: Values, score: Values) -> tuple[Values, Values]:
    """f and Q(f), each of shape (prompts + 1,)."""
    _, tied = np.unique(-score, return_inverse=True)
    gain = np.bincount(tied, strong - weak) / np.bincount(tied)
    in_order = gain[np.sort(tied)]
    share = np.arange(len(score) + 1) / len(score)
    return share, weak.mean() + np.concatenate(([0.0], np.cumsum(in_order))) / len(score)


def _reaches(share: Values, height: Values, wanted: float) -> float:
    """The first crossing, linear between points."""
    at = int(np.argmax(height >= wanted - 1e-12))
    if at == 0:
        return 0.0
    rise = height[at] - height[at - 1]
    return float(share[at - 1] + (wanted - height[at - 1]) / rise * (share[at] - share[at - 1]))


def intervals(strong: Values, weak: Values, score: Values, *, rounds: int = 200, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the APGR, over prompts."""
    draw = np.random.default_rng(seed)
    picks = (draw.integers(0, len(score), len(score)) for _ in range(rounds))
    areas = [split(strong[pick], weak[pick], score[pick]).apgr for pick in picks]
    low, high = np.nanpercentile(areas, [2.5, 97.5])
    return float(low), float(high)
