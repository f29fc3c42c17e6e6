"""What a request cost, what it would have cost, and how that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.helped import Help, help_by, nano_of
from gateway.types import Usage, UsageSource

if TYPE_CHECKING:
    from gateway.pricing import PriceBook
    from gateway.types import Price
    from gateway.visit import Visit


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a request cost and what it would have cost: nano-dollars. ``price`` is None where nothing was bought.

    ``abandoned_nano`` of the cost are for tries that nobody got an answer of, ``helped`` for what helped to decide.
    ``source``: of everything that cost.
    """

    usage: Usage
    cost_nano: int
    baseline_nano: int
    price: Price | None
    unpriced: bool
    source: UsageSource = "none"
    abandoned_nano: int = 0
    helped: tuple[Help, ...] = ()

    @property
    def saved_nano(self) -> int:
        return self.baseline_nano - self.cost_nano


def bill(visit: Visit, prices: PriceBook) -> Bill:
    """Price a request: true cost of every call that was billed, and the baseline's cost for the same tokens."""
    if visit.billed is None or visit.status != "ok":
        visit.billed = _bill(visit, prices)
    return visit.billed


def _bill(visit: Visit, prices: PriceBook) -> Bill:
    usage, helped = visit.final_usage(), help_by(visit.helped, prices, visit.ts_ms) if visit.helped else ()
    # What was reserved is for all of it, and what helped has been paid for by then.
    room = max(0, visit.reserved_nano - nano_of(helped)) if visit.reserved_nano else None
    if visit.given:
        amount = _of_given(visit, prices, usage)
    elif usage.source == "none":
        amount = _of_tries(visit, prices, usage, room)
    else:
        amount = _of_answer(visit, prices, usage, room)
    return _with_help(amount, helped) if helped else amount


def _with_help(amount: Bill, helped: tuple[Help, ...]) -> Bill:
    sources = {amount.source, *(one.source for one in helped)} - {"none"}
    return msgspec.structs.replace(
        amount,
        cost_nano=amount.cost_nano + nano_of(helped),
        helped=helped,
        price=amount.price or (None if amount.unpriced else helped[0].price),
        source="estimated" if "estimated" in sources else "reported",
    )


def _of_given(visit: Visit, prices: PriceBook, usage: Usage) -> Bill:
    """What was bought for another request costs nothing and saves all that it would have cost."""
    reference = visit.hit.entry.usage if visit.hit is not None else usage
    saves = visit.hit is not None or visit.status == "ok"
    return Bill(
        usage=msgspec.structs.replace(reference, source="none"),
        cost_nano=0,
        baseline_nano=_baseline(visit, prices, reference, 0) if saves else 0,
        price=None,
        unpriced=False,
    )


def _of_tries(visit: Visit, prices: PriceBook, usage: Usage, room: int | None) -> Bill:
    """Nothing was answered."""
    abandoned, source = _abandoned(visit, prices, 0, room)
    return Bill(
        usage=usage,
        cost_nano=abandoned,
        baseline_nano=0,
        price=prices.price(visit.model, visit.ts_ms) if abandoned else None,
        unpriced=_unpriced_try(visit, prices),
        source=source,
        abandoned_nano=abandoned,
    )


def _of_answer(visit: Visit, prices: PriceBook, usage: Usage, room: int | None) -> Bill:
    if usage.busy_s is None and prices.timed(visit.model, visit.ts_ms):
        usage = msgspec.structs.replace(usage, busy_s=visit.called_s())
    price = prices.price(visit.model, visit.ts_ms)
    cost = prices.cost_nano(visit.model, usage, visit.ts_ms) if price is not None else 0
    if usage.source == "estimated" and room is not None:
        cost = min(cost, room)
    abandoned, source = _abandoned(visit, prices, cost, room)
    return Bill(
        usage=usage,
        cost_nano=cost + abandoned,
        baseline_nano=_baseline(visit, prices, usage, cost) if visit.status == "ok" and price is not None else cost,
        price=price,
        unpriced=price is None or _unpriced_try(visit, prices),
        source="estimated" if "estimated" in (source, usage.source) else usage.source,
        abandoned_nano=abandoned,
    )


def _abandoned(visit: Visit, prices: PriceBook, cost_nano: int, room: int | None) -> tuple[int, UsageSource]:
    """What abandoned tries cost beside the answer's ``cost_nano``, and how that is known.

    The time of a machine that is paid by the hour is not among it: no request is charged for it, so it is idle time.
    """
    total = 0
    source: UsageSource = "none"
    for model, usage in visit.tries():
        period = prices.period(model, visit.ts_ms)
        if period is not None and not period.sheet.usd_per_hour:
            total += period.compiled.cost_nano(usage)
            source = usage.source if source != "estimated" else source
    if source == "estimated" and room is not None:
        total = min(total, max(0, room - cost_nano))
    return total, source


def _unpriced_try(visit: Visit, prices: PriceBook) -> bool:
    """Whether something was billed that nobody knows the price of."""
    return any(prices.period(model, visit.ts_ms) is None for model, _ in visit.tries())


def _baseline(visit: Visit, prices: PriceBook, usage: Usage, otherwise: int) -> int:
    """Cost at the baseline model; where it has no price nothing is claimed as saved."""
    model = visit.policy.policy.baseline
    cost = prices.baseline_nano(model, usage, visit.ts_ms) if model is not None else None
    return otherwise if cost is None else cost
