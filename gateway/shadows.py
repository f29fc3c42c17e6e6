"""Shadow requests: what other models would have answered, for comparison. Nobody waits for them or sees them.

A rule's shadows have a budget of their own for each UTC day, taken before the call at its worst case. Each is a row in
the books under the key ``shadow``, never charged to the budget of who asked; ``detail.shadow_of`` names the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from gateway.budget.limits import Admission
from gateway.budget.purse import Purse
from gateway.errors import GatewayError, RedisAway
from gateway.features import EXPERIMENT_TAG
from gateway.routing import worst_nano
from gateway.types import NANO, SHADOW_KEY, Principal, Where
from gateway.visit import Visit, bill, ledger_entry

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.pipeline import View
    from gateway.types import ChatRequest, Features

_RUNNING_MAX = 64
_PATIENCE_S = 120.0
_log = logging.getLogger(__name__)


class Shadows:
    """Asks the shadows of a worker's requests, a bounded number at a time; beyond it they are left out."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._asking: set[asyncio.Task[None]] = set()

    def cast(self, view: View, visit: Visit) -> None:
        """Begin what the decision wishes for; returns at once."""
        decision = visit.decision
        if decision is None or not decision.shadow or visit.local_only:
            return
        rule = visit.policy.rule(decision.rule)
        if rule is None or (shadow := rule.shadow) is None:
            return
        for name in decision.shadow:
            if len(self._asking) >= _RUNNING_MAX or view.fleet.unavailable(name) or view.prices.price(name) is None:
                continue
            task = asyncio.create_task(self._ask(view, visit, name, round(shadow.usd_per_day * NANO)))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Break off what is under way; it is in the books all the same."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask(self, view: View, of: Visit, name: str, limit_nano: int) -> None:
        worst = worst_nano(view, of, name) or 0
        try:
            if await self._take(of, worst, limit_nano):
                visit = _visit(of, name)
                try:
                    await self._answer(view, visit)
                finally:
                    self._books.spawn(self._settle(view, of, visit, worst))
        except RedisAway:
            _log.debug("no shadow of %s: its budget cannot be checked", of.request.id)

    async def _take(self, of: Visit, worst: int, limit_nano: int) -> bool:
        return await self._purse(of).take(worst, limit_nano, of.ts_ms)

    def _purse(self, of: Visit) -> Purse:
        assert of.decision is not None
        return Purse(self._books.link, f"{self._books.keys.prefix}{SHADOW_KEY}:{of.policy.name}:{of.decision.rule}")

    async def _answer(self, view: View, visit: Visit) -> None:
        try:
            answer = await view.fleet.call(
                (visit.model,), visit.request, deadline_s=_PATIENCE_S, on_attempt=visit.attempts.append
            )
            visit.take(answer.first)
            await answer.rest.aclose()
        except GatewayError as error:
            visit.fail("error", error.status, f"{error.code}: {error.message}")
        except asyncio.CancelledError:
            visit.fail("cancelled", 499, "the gateway stopped")
            raise

    async def _settle(self, view: View, of: Visit, visit: Visit, worst: int) -> None:
        """Put it in the books, and what it did not cost back into the day's purse."""
        cost_nano = await settle_aside(self._books, view, visit, {"shadow_of": of.request.id})
        with contextlib.suppress(RedisAway):  # the day's purse is then a little smaller than it should be
            await self._purse(of).give_back(worst - cost_nano, of.ts_ms)


async def settle_aside(books: Books, view: View, visit: Visit, detail: dict[str, str]) -> int:
    """Put a call that no client waits for in the books: it saves nothing. What it cost, nano-dollars."""
    await visit.count()
    amount = bill(visit, view.prices)
    model = view.settings.model(visit.model)
    served: Where = "none"
    if visit.first_byte is not None and model is not None:
        served = "local" if model.is_local else "hosted"
    entry = ledger_entry(visit, amount, provider=model.kind if model else "", served=served)
    await books.settle(
        visit,
        msgspec.structs.replace(entry, saved_nano=0, baseline_nano=0, detail={**entry.detail, **detail}),
        None,
    )
    return amount.cost_nano


def _visit(of: Visit, name: str) -> Visit:
    principal = Principal(key_id=SHADOW_KEY, name=SHADOW_KEY, organisation=of.principal.organisation)
    visit = Visit(_plain(of.request, name), principal, of.policy, _tagged(of.features))
    visit.decision, visit.model, visit.admission = of.decision, name, Admission(known=False)
    return visit


def _plain(request: ChatRequest, name: str) -> ChatRequest:
    """The same question, to be answered in one piece."""
    fields = {key: raw for key, raw in request.fields.items() if key not in ("stream", "stream_options")}
    return msgspec.structs.replace(request, id=f"{request.id}-{SHADOW_KEY}-{name}", fields=fields, stream=False)


def _tagged(features: Features) -> Features:
    """Not in the experiment of the request they shadow: nobody got their answer."""
    kept = (tag for tag in features.tags if not tag.startswith(EXPERIMENT_TAG))
    return msgspec.structs.replace(features, tags=tuple(sorted({*kept, SHADOW_KEY})))
