"""Calls that no client waits for, such as shadows: each is a row in the books, and claims to have saved nothing."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.billing import bill
from gateway.entry import ledger_entry
from gateway.errors import GatewayError, RedisAway
from gateway.visit import NOTHING_KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.backends.fleet import Fleet
    from gateway.books import Books
    from gateway.budget.purse import Purse
    from gateway.config import ModelConfig
    from gateway.pricing import PriceBook
    from gateway.types import Chunk, Where
    from gateway.view import View
    from gateway.visit import Visit

_log = logging.getLogger(__name__)
_NOTHING: Mapping[str, str] = {}


class Allowance(NamedTuple):
    """What pays for a call: ``worst_nano`` at most, of the ``limit_nano`` that the purse has for a day."""

    purse: Purse
    limit_nano: int
    worst_nano: int


async def ask(
    books: Books,
    view: View,
    visit: Visit,
    allowance: Allowance,
    *,
    deadline_s: float,
    detail: Mapping[str, str],
    verifies: bool = False,
) -> str | None:
    """The answer of the visit's model; "" where it fails, which its row tells; None where its day's money is spent.

    Whatever becomes of the caller, the row is written. ``detail``: what it says besides; ``verifies``: it is what
    verification cost.

    Raises:
        RedisAway: the purse cannot be checked, so nothing was asked.
    """
    if not await allowance.purse.take(allowance.worst_nano, allowance.limit_nano, visit.ts_ms):
        return None
    try:
        return (await answer(view.fleet, visit, deadline_s)).text
    except GatewayError as error:
        _log.debug("no answer to %s: %s", visit.request.id, error)
        return ""
    finally:
        books.spawn(_settle(books, view, visit, allowance, detail, verifies))


async def _settle(
    books: Books, view: View, visit: Visit, allowance: Allowance, detail: Mapping[str, str], verifies: bool
) -> None:
    cost_nano = await enter(books, view.prices, visit, view.settings.model(visit.model), detail, verifies=verifies)
    with contextlib.suppress(RedisAway):  # the day's purse is then a little smaller than it should be
        await allowance.purse.give_back(allowance.worst_nano - cost_nano, visit.ts_ms)


async def answer(fleet: Fleet, visit: Visit, deadline_s: float) -> Chunk:
    """The whole answer of the visit's model, to a request that is no stream.

    Raises:
        GatewayError: there is none; the visit, and so its row, knows why.
    """
    try:
        reply = await fleet.call((visit.model,), visit.request, deadline_s=deadline_s, on_attempt=visit.attempts.append)
        visit.take(reply.first)
        await reply.rest.aclose()
    except GatewayError as error:
        visit.fail("error", error.status, f"{error.code}: {error.message}")
        raise
    except BaseException:  # cancelled, for one: what was asked may be billed all the same
        visit.fail("cancelled", 499, "the process stopped")
        raise
    return reply.first


async def enter(
    books: Books,
    prices: PriceBook,
    visit: Visit,
    model: ModelConfig | None,
    detail: Mapping[str, str] = _NOTHING,
    *,
    verifies: bool = False,
) -> int:
    """Put a call to ``model`` in the books, and nothing of what was said. What it cost, nano-dollars."""
    visit.contents = NOTHING_KEPT
    await visit.count()
    amount = bill(visit, prices)
    served: Where = "none"
    if visit.first_byte is not None and model is not None:
        served = "local" if model.is_local else "hosted"
    entry = ledger_entry(visit, amount, provider=model.kind if model else "", served=served)
    told = msgspec.structs.replace(entry, saved_nano=0, baseline_nano=0, detail={**entry.detail, **detail})
    if verifies:
        # The time of a machine that is paid by the hour is busy time of that machine, whatever it was for.
        hourly = amount.price is not None and amount.price.usd_per_hour != "0"
        part = 0 if hourly else amount.cost_nano - amount.abandoned_nano
        told = msgspec.structs.replace(told, saved_nano=-amount.cost_nano, verification_nano=part)
    await books.settle(visit, told, None)
    return amount.cost_nano
