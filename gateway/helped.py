"""What hosted helpers cost: the embedder and the cross-encoder of a request, or of the cache's own upkeep.

The time of one on this machine is its machine's, and charged to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.protocols import Helper
from gateway.types import Price, UsageSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.pricing import PriceBook
    from gateway.types import Usage


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """What one helper came to: ``calls`` of it, all their tokens, nano-dollars at ``price``."""

    helper: Helper
    calls: int
    tokens: int
    cost_nano: int
    price: Price
    source: UsageSource


def help_by(used: Sequence[tuple[Helper, Usage]], prices: PriceBook, at_ms: int) -> tuple[Help, ...]:
    """Calls priced, one account a helper: of those that are hosted and whose price somebody has said."""
    helpers = dict.fromkeys(helper for helper, _ in used)
    found = (_of_one(helper, [usage for of, usage in used if of == helper], prices, at_ms) for helper in helpers)
    return tuple(one for one in found if one is not None)


def _of_one(helper: Helper, used: Sequence[Usage], prices: PriceBook, at_ms: int) -> Help | None:
    period = prices.helper(helper, at_ms)
    if period is None:
        return None
    return Help(
        helper=helper,
        calls=len(used),
        tokens=sum(usage.prompt_tokens for usage in used),
        cost_nano=sum(map(period.compiled.cost_nano, used)),
        price=period.price,
        source="estimated" if any(usage.source == "estimated" for usage in used) else "reported",
    )


def nano_of(helped: Iterable[Help], helper: Helper | None = None) -> int:
    """What one of them cost; None: all."""
    return sum(one.cost_nano for one in helped if helper in (None, one.helper))
