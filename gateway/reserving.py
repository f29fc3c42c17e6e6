"""What a decision may cost at most, and what is left of it where a budget has not enough: step 7."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.books import Reservation, exhausted
from gateway.prompt_bound import PromptBound
from gateway.routing import worst_nano

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.types import Decision
    from gateway.view import View
    from gateway.visit import Visit

_TRIES_MAX = 5  # while others take what is left


def worst_case_of(view: View, visit: Visit, name: str, bound: PromptBound | None = None) -> Reservation:
    """The most a request may cost at one target. ``bound``: of another prompt than the request's."""
    price, amount = view.prices.price(name, visit.ts_ms), worst_nano(view, visit, name, bound)
    if price is None or amount is None:
        return Reservation(0, (name, None))
    return Reservation(amount, (name, price), ((name, amount),))


def worst_case(
    view: View, visit: Visit, decision: Decision, *, degraded: bool = False, bound: PromptBound | None = None
) -> Reservation:
    """The dearest of all targets that may be tried. A budget that is spent does not have to pay for local ones."""
    each = [worst_case_of(view, visit, name, bound) for name in (*decision.targets, *decision.last_resort)]
    if len(each) == 1 and not degraded:
        return each[0]
    if degraded:
        each = [Reservation(0, one.price_of) if view.is_local(one.price_of[0]) else one for one in each]
    dearest = max(each, key=lambda one: one.amount_nano)
    models = tuple(model for one in each for model in one.models)
    return msgspec.structs.replace(dearest, models=models)


async def reserved(books: Books, view: View, visit: Visit, decision: Decision) -> Decision:
    """Hold the worst case of the dearest target that may still be tried; what comes back is what the budgets leave.

    Raises:
        BudgetExhausted
    """
    wanted = worst_case(view, visit, decision)
    for _ in range(_TRIES_MAX):
        hopeless = visit.short is not None and wanted.amount_nano > 0
        if not hopeless and await books.reserve(visit, wanted):
            return decision
        if (tight := await _tightened(books, view, visit, decision)) is not None:
            wanted, visit.short = tight, None
            continue
        decision = _within_budget(books, view, visit, decision)
        wanted, visit.short = worst_case(view, visit, decision, degraded=True), None
    raise exhausted(visit)


async def reserve_again(books: Books, view: View, visit: Visit, name: str) -> None:
    """Hold a target's worst case once more, for a try that may be billed as well. Raises BudgetExhausted."""
    while not await books.reserve(visit, worst_case_of(view, visit, name)):
        if not await visit.tighten():
            raise exhausted(visit)


def _within_budget(books: Books, view: View, visit: Visit, decision: Decision) -> Decision:
    """A budget has not enough left: what may still be tried, by the policy and by what the others have left."""
    whole = books.short_for_all(visit)

    def fits(name: str) -> bool:
        return books.fits(visit, worst_case_of(view, visit, name))

    rest = visit.policy.for_budget(decision, fits, whole=whole)
    if rest is None:
        raise exhausted(visit)
    visit.decision, visit.degraded = rest, rest.degraded
    return rest


async def _tightened(books: Books, view: View, visit: Visit, decision: Decision) -> Reservation | None:
    """The worst case by a count of the prompt, once, and only where what is left has room for an estimate of it."""
    likely = PromptBound(text=visit.features.prompt_tokens)
    if not books.fits(visit, worst_case(view, visit, decision, bound=likely)) or not await visit.tighten():
        return None
    wanted = worst_case(view, visit, decision)
    return wanted if books.fits(visit, wanted) else None
