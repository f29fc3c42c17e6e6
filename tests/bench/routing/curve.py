"""Quality against cost of four ways to share prompts between a small and a large model, from what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tests.bench.routing.record import Row, large_is_right

INPUT_USD, OUTPUT_USD = 0.15e-6, 0.60e-6
"""A token at the large model: gpt-4o-mini in October 2026. Its answer is taken to be as long as the small one's."""
SMALL_USD_S = 0.04 / 3600
SMALL_TOKENS_S = 150.0
"""The small model's machine, paid also for answers that are given up, and the tokens it does in a second."""
BOUNDS = tuple(number / 100 for number in range(101))


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """``tried`` and ``kept``: whether the small model is asked, and whether its answer is given, at a bound 0 … 1.

    ``rule``: what does the same in a gateway, in a policy of the name ``policy``.
    """

    name: str
    policy: str
    tried: Callable[[Row, float], bool]
    kept: Callable[[Row, float], bool]
    rule: Callable[[float], dict[str, object]]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One bound: dollars for a thousand prompts, the share of right answers, and how many prompts the small model was
    asked, answered, and answered rightly.
    """

    bound: float
    usd: float
    quality: float
    tried: int
    local: int
    local_right: int


def _always(row: Row, bound: float) -> bool:
    return True


def _easy_below(bound: float) -> dict[str, object]:
    return {"when": f"difficulty < {bound}"}


def _sure_from(bound: float) -> dict[str, object]:
    return {"escalate": {"when": f"confidence < {bound}"}}


def _worth_keeping(bound: float) -> float:
    """The chance of being right from which on an answer is kept where prompts below this difficulty were tried.

    Found on the probe's own questions, each by all others: the two bounds that do best there at some price of a mistake
    lie near this line. Where much is tried mistakes are cheap, and what was tried is kept.
    """
    return round(min(0.9, max(0.0, 1.93 - 3.1 * bound)), 3)


WAYS = (
    Way(name="rules", policy="default", tried=lambda row, bound: row.rules < bound, kept=_always, rule=_easy_below),
    Way(name="scorer", policy="scorer", tried=lambda row, bound: row.scorer < bound, kept=_always, rule=_easy_below),
    Way(name="cascade", policy="cascade", tried=_always, kept=lambda row, bound: row.alone >= bound, rule=_sure_from),
    Way(
        name="scorer + cascade",
        policy="both",
        tried=lambda row, bound: row.scorer < bound,
        kept=lambda row, bound: row.both >= _worth_keeping(bound),
        rule=lambda bound: _easy_below(bound) | _sure_from(_worth_keeping(bound)),
    ),
)


def curve(way: Way, rows: Sequence[Row]) -> list[Point]:
    """A point for each of :data:`BOUNDS`."""
    return [point(way, rows, bound) for bound in BOUNDS]


def point(way: Way, rows: Sequence[Row], bound: float) -> Point:
    tried = [row for row in rows if way.tried(row, bound)]
    kept = [row for row in tried if way.kept(row, bound)]
    here = {row.prompt for row in kept}
    right = sum(row.right if row.prompt in here else large_is_right(row.prompt) for row in rows)
    usd = sum(map(small_usd, tried)) + sum(large_usd(row) for row in rows if row.prompt not in here)
    return Point(
        bound=bound,
        usd=1000 * usd / len(rows),
        quality=right / len(rows),
        tried=len(tried),
        local=len(kept),
        local_right=sum(row.right for row in kept),
    )


def small_usd(row: Row) -> float:
    """The small model's machine for one answer."""
    return SMALL_USD_S * (prompt_tokens(row) + row.signals.tokens) / SMALL_TOKENS_S


def large_usd(row: Row) -> float:
    """The large model's price of one answer."""
    return INPUT_USD * prompt_tokens(row) + OUTPUT_USD * row.signals.tokens


def prompt_tokens(row: Row) -> int:
    """Four characters a token, and what a chat template adds."""
    return len(row.prompt) // 4 + 8


def at_cost(points: Sequence[Point], usd: float) -> float:
    """The best quality that is to be had for ``usd``: of two points any mixture is, by sending prompts either way."""
    best = max((one.quality for one in points if one.usd <= usd), default=0.0)
    for cheap in points:
        for dear in points:
            if cheap.usd <= usd < dear.usd:
                share = (usd - cheap.usd) / (dear.usd - cheap.usd)
                best = max(best, cheap.quality + share * (dear.quality - cheap.quality))
    return best
