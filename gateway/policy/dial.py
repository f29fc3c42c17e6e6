"""The dial between cost and quality: ``x-gateway-quality``, or a policy's ``cost_quality``. 0 is cheapest, 10 is best.

A position is a place on the cost/quality curve of RouteLLM (https://arxiv.org/abs/2406.18665, section 3): prompts stay
in the order of their difficulty, and what moves is the share that stays small. With r the rank of a difficulty (the
share of what the traffic costs that lies below it) and t the way from 5 to the end (0 … 1), difficulty becomes the one
of rank r / (1 − t) on the way to 10 and (r − t) / (1 − t) on the way to 0. So, whatever threshold a policy has, a step
takes away a fifth of what is kept small, or adds a fifth of the rest, and costs as much as the step before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from gateway.types import Features, Frozen, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gateway.protocols import Scorer

NEUTRAL, BEST = 5, 10
DIALLED = "quality"
"""What the dial is called among the contributions to a difficulty."""

_STEPS = 100
# A little of every difficulty: where nothing was measured a step still leads on.
_EVEN = 0.05


class Dial(Frozen, frozen=True):
    """The measured curve: ``ranks`` at evenly spaced difficulties, from 0 at 0 to 1 at 1, rising.

    Without a measurement every difficulty is taken to be as frequent as any other.
    """

    ranks: tuple[float, ...] = (0.0, 1.0)

    @classmethod
    def measured(cls, difficulties: Iterable[float], costs: Iterable[float]) -> Dial:
        """From traffic: the difficulty of each request at the neutral position, and what hangs on where it goes."""
        held = [0.0] * _STEPS
        for difficulty, cost in zip(difficulties, costs, strict=True):
            held[min(_STEPS - 1, int(difficulty * _STEPS))] += max(0.0, cost)
        total = sum(held)
        if not total:
            return cls()
        steps = [(1 - _EVEN) * one / total + _EVEN / _STEPS for one in held]
        return cls((0.0, *(round(rank, 6) for rank in accumulate(steps[:-1])), 1.0))

    def slide(self, difficulty: float, quality: int) -> float:
        """What a difficulty is at a position of the dial: rises with either."""
        way = (quality - NEUTRAL) / (BEST - NEUTRAL)
        if not way:
            return difficulty
        left, rank = 1 - abs(way), self._rank(difficulty)
        if not left:
            return float(way > 0)
        moved = rank / left if way > 0 else (rank - (1 - left)) / left
        return self._difficulty(min(1.0, max(0.0, moved)))

    def stands_for(self, threshold: float, quality: int) -> float:
        """The difficulty at the neutral position that lies at ``threshold`` at another one; 0 or 1 at the ends."""
        way = (quality - NEUTRAL) / (BEST - NEUTRAL)
        left, rank = 1 - abs(way), self._rank(threshold)
        return self._difficulty(rank * left + max(0.0, -way))

    def _rank(self, difficulty: float) -> float:
        at = min(1.0, max(0.0, difficulty)) * (len(self.ranks) - 1)
        below = min(int(at), len(self.ranks) - 2)
        return self.ranks[below] + (at - below) * (self.ranks[below + 1] - self.ranks[below])

    def _difficulty(self, rank: float) -> float:
        above = max(1, bisect_left(self.ranks, rank))
        below, rise = self.ranks[above - 1], self.ranks[above] - self.ranks[above - 1]
        return (above - 1 + (rank - below) / rise) / (len(self.ranks) - 1)


UNMEASURED = Dial()


class Dialled:
    """A :class:`gateway.protocols.Scorer` that asks another one at the neutral position and slides what it says."""

    def __init__(self, scorer: Scorer, dial: Dial = UNMEASURED) -> None:
        self._scorer, self._dial = scorer, dial

    def wants_embedding(self, features: Features) -> bool:
        """As the scorer itself, for the evidence must not hang on the dial; at the dial's ends none of it counts."""
        return 0 < features.quality < BEST and self._scorer.wants_embedding(_neutral(features))

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """What the dial added is the contribution ``quality``."""
        found = self._scorer.score(_neutral(features), embedding)
        if features.quality == NEUTRAL:
            return found
        return slid(found, self._dial, features.quality)


def slid(score: Score, dial: Dial, quality: int) -> Score:
    """A score of the neutral position at another one."""
    before = round(score.difficulty, 3)
    after = round(dial.slide(before, quality), 3)
    if after == before:
        return score
    parts = (*score.contributions, (DIALLED, round(after - before, 3)))
    strongest = tuple(sorted(parts, key=lambda part: -abs(part[1])))
    return msgspec.structs.replace(score, difficulty=after, contributions=strongest)


def without(difficulty: float, contributions: Sequence[Sequence[object]], *names: str) -> float:
    """A logged difficulty without what these contributions added to it."""
    added = sum(part for name, part in contributions if name in names and isinstance(part, int | float))
    return min(1.0, max(0.0, difficulty - added))


def _neutral(features: Features) -> Features:
    return features if features.quality == NEUTRAL else msgspec.structs.replace(features, quality=NEUTRAL)
