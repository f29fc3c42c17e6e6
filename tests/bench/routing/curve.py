"""Quality against cost of four ways to share prompts between a small and a large model, from what was recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tests.bench.routing.record import Row, Setting, large_is_right, prompt_tokens

SMALL_USD_S = 0.04 / 3600
SMALL_TOKENS_S = 150.0
"""The small model's machine, paid also for answers that are given up, and the tokens it does in a second."""
STEPS = tuple(number / 100 for number in range(101))
ALL = 1.01
"""A difficulty that every prompt is below."""


class Price(NamedTuple):
    """USD a token of the large model, whose answer is taken to be as long as the small one's."""

    name: str
    input: float
    output: float


CHEAP, DEAR = Price("gpt-4o-mini", 0.15e-6, 0.60e-6), Price("gpt-4o", 2.5e-6, 10e-6)
"""In October 2026. A try costs a quarter of what the first asks for an answer, and a sixty-eighth of the second's."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """``difficulty``: of a prompt, where the way looks at it. ``chance``: of a right answer, where it weighs one.

    ``policy``: the name of one that does the same in a gateway.
    """

    name: str
    policy: str
    difficulty: Callable[[Row], float] | None = None
    chance: Callable[[Row], float] | None = None

    def tried(self, row: Row, setting: Setting) -> bool:
        """Whether the small model is asked."""
        return self.difficulty is None or self.difficulty(row) < setting.difficulty

    def kept(self, row: Row, setting: Setting) -> bool:
        """Whether its answer is given."""
        return self.chance is None or self.chance(row) >= setting.confidence

    def rule(self, setting: Setting) -> dict[str, object]:
        """What does the same in a policy."""
        easy = {"when": f"difficulty < {setting.difficulty}"} if self.difficulty else {}
        return easy | ({"escalate": {"when": f"confidence < {setting.confidence}"}} if self.chance else {})


BOTH = Way(
    name="scorer + cascade", policy="both", difficulty=operator.attrgetter("scorer"), chance=operator.attrgetter("both")
)
WAYS = (
    Way(name="rules", policy="default", difficulty=operator.attrgetter("rules")),
    Way(name="scorer", policy="scorer", difficulty=operator.attrgetter("scorer")),
    Way(name="cascade", policy="cascade", chance=operator.attrgetter("alone")),
    BOTH,
)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: dollars for a thousand prompts, the share of right answers, and how many prompts the small model was
    asked, answered, and answered rightly.
    """

    setting: Setting
    usd: float
    quality: float
    tried: int
    local: int
    local_right: int


def curve(way: Way, rows: Sequence[Row], price: Price, fitted: Sequence[Setting]) -> list[Point]:
    """A point for each hundredth of the one bound that the way has; of two, for each pair that was ``fitted``."""
    if way.difficulty and way.chance:
        settings = fitted
    else:
        settings = [Setting(step, 0.0) if way.difficulty else Setting(ALL, step) for step in STEPS]
    return [point(way, rows, setting, price) for setting in settings]


def point(way: Way, rows: Sequence[Row], setting: Setting, price: Price) -> Point:
    tried = [row for row in rows if way.tried(row, setting)]
    kept = [row for row in tried if way.kept(row, setting)]
    here = {row.prompt for row in kept}
    right = sum(row.right if row.prompt in here else large_is_right(row.prompt) for row in rows)
    usd = sum(map(small_usd, tried)) + sum(large_usd(row, price) for row in rows if row.prompt not in here)
    return Point(
        setting=setting,
        usd=1000 * usd / len(rows),
        quality=right / len(rows),
        tried=len(tried),
        local=len(kept),
        local_right=sum(row.right for row in kept),
    )


def small_usd(row: Row) -> float:
    """The small model's machine for one answer."""
    return SMALL_USD_S * (prompt_tokens(row) + row.signals.tokens) / SMALL_TOKENS_S


def large_usd(row: Row, price: Price) -> float:
    """The large model's price of one answer."""
    return price.input * prompt_tokens(row) + price.output * row.signals.tokens


def all_large(rows: Sequence[Row], price: Price) -> Point:
    """Nothing is answered by the small model."""
    return point(WAYS[0], rows, Setting(0.0, 0.0), price)


def at_cost(points: Sequence[Point], usd: float) -> float:
    """The best quality that is to be had for ``usd``: of two points any mixture is, by sending prompts either way."""
    best = max((one.quality for one in points if one.usd <= usd), default=0.0)
    for cheap in points:
        for dear in points:
            if cheap.usd <= usd < dear.usd:
                share = (usd - cheap.usd) / (dear.usd - cheap.usd)
                best = max(best, cheap.quality + share * (dear.quality - cheap.quality))
    return best
