"""What a decision depends on besides the request: the time, the budget, and how the targets are doing. Given, not read.

Whatever looks random is drawn from a hash of the request, so that a decision can be made again with the same outcome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.types import Frozen, Live

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
VARIABLES = ("hour", "weekday", "budget_left")
"""What an expression may read of a situation."""


_UNKNOWN = Live()


def _nothing_known(_: str) -> Live:
    return _UNKNOWN


def _no_cost(_: str) -> int | None:
    return None


class Situation(Frozen, frozen=True, kw_only=True):
    """The world around one request. ``budget_left`` is the share that is left of its tightest budget.

    ``worst_nano`` and ``likely_nano``: what a target may cost at most, and what is expected, in nano-dollars; None
    where its price is not known. ``identities``: who asks, by what a canary can stick to.
    """

    now_ms: int = 0
    budget_left: float = 1.0
    deadline_ms: float | None = None
    live: Callable[[str], Live] = _nothing_known
    worst_nano: Callable[[str], int | None] = _no_cost
    likely_nano: Callable[[str], int | None] = _no_cost
    identities: Mapping[str, str] = {}

    def clock(self, time_zone: str) -> tuple[int, str]:
        """Hour (0 to 23) and weekday there."""
        local = datetime.fromtimestamp(self.now_ms / 1000, _zone(time_zone))
        return local.hour, WEEKDAYS[local.weekday()]

    def draw(self, by: str, purpose: str) -> float:
        """In [0, 1), always the same for the same identity and purpose."""
        digest = hashlib.blake2b(f"{purpose}\0{self.identities.get(by, '')}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


NOWHERE = Situation()
"""Nothing is known of the world: what cases and imagined requests are decided in."""


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
