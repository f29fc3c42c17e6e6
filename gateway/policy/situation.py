"""What a decision depends on besides the request: the time, the budget, and how the targets are doing. Given, not read.

Whatever looks random is drawn from a hash of the request, so that a decision can be made again with the same outcome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.config import ModelConfig
from gateway.pricing import PriceBook
from gateway.types import Features, Frozen, Live, Usage

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
VARIABLES = ("hour", "weekday", "budget_left")
"""What an expression may read of a situation."""

LIKELY_TOKENS = 200
"""Of an answer whose length nobody knows: about what chat traffic has (Azure's public traces, median 129 to 211)."""


NOTHING_WARM: Mapping[str, int] = {}
_UNKNOWN = Live()


def _nothing_known(_: str) -> Live:
    return _UNKNOWN


def _no_cost(_: str) -> int | None:
    return None


class Situation(Frozen, frozen=True, kw_only=True):
    """The world around one request. ``budget_left`` is the share that is left of its tightest budget.

    ``worst_nano`` and ``likely_nano``: what a target may cost at most, and what is expected, in nano-dollars; None
    where its price is not known. ``warm``: how many tokens of this conversation a target has cached, if any; what is
    expected of it is then ``warm_nano``. ``identities``: who asks, by what a canary can stick to.
    """

    now_ms: int = 0
    budget_left: float = 1.0
    deadline_ms: float | None = None
    live: Callable[[str], Live] = _nothing_known
    worst_nano: Callable[[str], int | None] = _no_cost
    likely_nano: Callable[[str], int | None] = _no_cost
    warm: Mapping[str, int] = NOTHING_WARM
    warm_nano: Callable[[str], int | None] = _no_cost
    identities: Mapping[str, str] = {}

    def expected_nano(self, name: str) -> int | None:
        """What a target is expected to cost this conversation, by what it has cached of it."""
        return self.warm_nano(name) if name in self.warm else self.likely_nano(name)

    def clock(self, time_zone: str) -> tuple[int, str]:
        """Hour (0 to 23) and weekday there."""
        local = datetime.fromtimestamp(self.now_ms / 1000, _zone(time_zone))
        return local.hour, WEEKDAYS[local.weekday()]

    def draw(self, by: str, purpose: str) -> float:
        """In [0, 1), always the same for the same identity and purpose."""
        digest = hashlib.blake2b(f"{purpose}\0{self.identities.get(by, '')}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


def priced(
    prices: PriceBook,
    models: Callable[[str], ModelConfig | None],
    features: Features,
    at_ms: int,
    warm: Mapping[str, int] = NOTHING_WARM,
    **known: Any,
) -> Situation:
    """The world of a request that nobody is making now, with the prices of its time. ``known``: what else is."""

    def worst(name: str) -> int | None:
        if prices.price(name, at_ms) is None:
            return None
        return prices.worst_case_nano(name, features.prompt_tokens, features.max_tokens, at_ms=at_ms)

    def likely(name: str, cached: int = 0) -> int | None:
        return likely_nano(prices, models(name), features.prompt_tokens, features.max_tokens, at_ms, cached)

    return Situation(
        now_ms=at_ms,
        worst_nano=worst,
        likely_nano=likely,
        warm=warm,
        warm_nano=lambda name: likely(name, warm.get(name, 0)),
        **known,
    )


def identities(request: str, session: str, user: str, key: str) -> dict[str, str]:
    """Who asks, by what a canary can stick to; what is not said falls back to the next wider one."""
    return {"request": request, "session": session or user or key, "user": user or key, "key": key}


def likely_nano(
    prices: PriceBook, model: ModelConfig | None, prompt_tokens: int, max_tokens: int, at_ms: int, cached: int = 0
) -> int | None:
    """What an answer of usual length costs there, nano-dollars; a small local model is taken to read 1,000 tokens a
    second, of those it has not cached, and to write 100. None where its price is not known.
    """
    if model is None or prices.price(model.name, at_ms) is None:
        return None
    tokens, cached = min(max_tokens, LIKELY_TOKENS), min(cached, prompt_tokens)
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens, cached_tokens=cached)
    if model.is_local:
        usage = msgspec.structs.replace(usage, busy_s=likely_busy_s(prompt_tokens - cached, LIKELY_TOKENS))
    return prices.cost_nano(model.name, usage, at_ms)


def likely_busy_s(read_tokens: int, written_tokens: int) -> float:
    """How long a small local model computes."""
    return read_tokens / 1_000 + written_tokens / 100


NOWHERE = Situation()
"""Nothing is known of the world: what cases and imagined requests are decided in."""


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
